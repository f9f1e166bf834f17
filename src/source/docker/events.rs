//! The events stream of an engine: one JSON object a line, of which few kinds matter.
//!
//! Lines are gathered over bytes cut anywhere; a line too long or not understood is told as
//! such, so that the containers are listed again. Pure: no clock, no I/O. Runs on `docker-ctl`.

use memchr::memchr;
use serde::Deserialize;

use super::body::{BodyReader, BodyState};
use super::chunk::ChunkError;
use super::http::BodyLength;
use crate::limits;

/// The path of the stream, below the version: containers only, the kinds of [`Action`]. The
/// filters are percent-encoded `{"type":["container"],"event":[...]}`; an unknown key would be
/// accepted and match nothing, for ever.
pub const EVENTS_PATH: &str = "/events?filters=%7B%22type%22%3A%5B%22container%22%5D%2C%22event\
    %22%3A%5B%22create%22%2C%22start%22%2C%22die%22%2C%22destroy%22%2C%22rename%22%5D%7D";

/// What happened to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Create,
    /// A run began.
    Start,
    /// A run ended.
    Die,
    /// The container is gone.
    Destroy,
    Rename,
}

/// What a line of the stream says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerEvent {
    Happened {
        action: Action,
        id: String,
    },
    /// A line that was too long or is not understood: anything may have happened.
    Unreadable,
}

/// Decodes one stream; memory is bounded by [`limits::DOCKER_EVENT_BYTES_MAX`].
#[derive(Debug)]
pub struct EventReader {
    body: BodyReader,
    line: Line,
}

#[derive(Debug, Default)]
struct Line {
    gathered: Vec<u8>,
    /// The line is too long: its rest is skipped.
    skip: bool,
}

impl EventReader {
    pub fn new(length: BodyLength) -> Self {
        Self { body: BodyReader::new(length), line: Line::default() }
    }

    /// Takes what was read; calls `event` for each line that matters. Complete: the engine
    /// ended the stream.
    ///
    /// # Errors
    /// When the chunks are damaged; the connection is of no more use.
    pub fn push(
        &mut self,
        bytes: &[u8],
        mut event: impl FnMut(ContainerEvent),
    ) -> Result<BodyState, ChunkError> {
        let line = &mut self.line;
        self.body.push(bytes, |data| line.push(data, &mut event))
    }
}

impl Line {
    fn push(&mut self, mut data: &[u8], event: &mut impl FnMut(ContainerEvent)) {
        while let Some(end) = memchr(b'\n', data) {
            self.gather(&data[..end]);
            if self.skip {
                event(ContainerEvent::Unreadable);
            } else if let Some(found) = parse(&self.gathered) {
                event(found);
            }
            self.gathered.clear();
            self.skip = false;
            data = &data[end + 1..];
        }
        self.gather(data);
    }

    fn gather(&mut self, data: &[u8]) {
        self.skip |= self.gathered.len() + data.len() > limits::DOCKER_EVENT_BYTES_MAX;
        if self.skip {
            self.gathered = Vec::new();
        } else {
            self.gathered.extend_from_slice(data);
        }
    }
}

#[derive(Deserialize)]
struct RawEvent {
    /// Absent below API 1.22, where only containers had events.
    #[serde(rename = "Type", default)]
    kind: String,
    #[serde(rename = "Action", default)]
    action: String,
    #[serde(rename = "Actor", default)]
    actor: RawActor,
}

#[derive(Default, Deserialize)]
struct RawActor {
    #[serde(rename = "ID", default)]
    id: String,
}

/// None: a line of no concern.
fn parse(line: &[u8]) -> Option<ContainerEvent> {
    if line.trim_ascii().is_empty() {
        return None;
    }
    let Ok(raw) = serde_json::from_slice::<RawEvent>(line) else {
        return Some(ContainerEvent::Unreadable);
    };
    if raw.kind != "container" {
        return None;
    }
    let action = match raw.action.as_str() {
        "create" => Action::Create,
        "start" => Action::Start,
        "die" => Action::Die,
        "destroy" => Action::Destroy,
        "rename" => Action::Rename,
        _ => return None,
    };
    if raw.actor.id.is_empty() {
        return Some(ContainerEvent::Unreadable);
    }
    Some(ContainerEvent::Happened { action, id: raw.actor.id })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::source::docker::http::HeadReader;
    use crate::source::docker::recordings;

    fn read(reader: &mut EventReader, bytes: &[u8]) -> Vec<ContainerEvent> {
        let mut events = Vec::new();
        reader.push(bytes, |event| events.push(event)).unwrap();
        events
    }

    fn actions(name: &str, step: usize) -> Vec<Action> {
        let (_, bytes) = recordings().into_iter().find(|(n, _)| n == name).expect(name);
        let (head, body) = HeadReader::default().push(&bytes).unwrap().expect(name);
        let mut reader = EventReader::new(head.body);
        let events = body.chunks(step).flat_map(|piece| read(&mut reader, piece));
        let action = |event| match event {
            ContainerEvent::Happened { action, id } => {
                assert_eq!(id.len(), 64, "{name}");
                action
            }
            ContainerEvent::Unreadable => panic!("{name}: a line is not understood"),
        };
        events.map(action).collect()
    }

    #[test]
    fn recorded_events_are_understood_however_they_are_cut() {
        use Action::{Create, Destroy, Die, Rename, Start};
        for step in [1, 7, 100_000] {
            let all = actions("11-events-all.http", step);
            assert_eq!(all[..3], [Create, Start, Rename], "{all:?}");
            assert_eq!(all.last(), Some(&Destroy), "{all:?}");
            assert!(all.windows(2).any(|w| w == [Die, Start]), "a restart in {all:?}");
            assert!(actions("11-events-oom.http", step).contains(&Die));
            assert_eq!(actions("11-events-bad-filter.http", step), []);
        }
    }

    #[test]
    fn the_path_asks_for_the_kinds_that_are_understood() {
        let mut text = EVENTS_PATH.to_owned();
        for (code, sign) in [("%7B", "{"), ("%22", "\""), ("%3A", ":"), ("%5B", "["), ("%5D", "]")]
        {
            text = text.replace(code, sign);
        }
        let text = text.replace("%2C", ",").replace("%7D", "}");
        let expected = [
            r#"/events?filters={"type":["container"],"#,
            r#""event":["create","start","die","destroy","rename"]}"#,
        ]
        .concat();
        assert_eq!(text, expected);
    }

    #[test]
    fn lines_too_long_or_broken_are_told_and_the_next_is_read() {
        let good = format!(
            r#"{{"Type":"container","Action":"start","Actor":{{"ID":"{}"}}}}"#,
            "a".repeat(64)
        );
        let long = " ".repeat(limits::DOCKER_EVENT_BYTES_MAX + 1);
        let text = format!("{long}\n{good}\n{{\"Type\":\n\n{good}\n[1]\n");
        let mut reader = EventReader::new(BodyLength::UntilClose);
        let mut events = Vec::new();
        for piece in text.as_bytes().chunks(60_000) {
            events.extend(read(&mut reader, piece));
            assert!(reader.line.gathered.len() <= limits::DOCKER_EVENT_BYTES_MAX);
        }
        let unreadable = |e: &ContainerEvent| *e == ContainerEvent::Unreadable;
        let shape: Vec<bool> = events.iter().map(unreadable).collect();
        assert_eq!(shape, [true, false, true, false, true]);
    }

    #[test]
    fn events_of_no_concern_are_passed_over() {
        let text = "{\"Type\":\"network\",\"Action\":\"start\",\"Actor\":{\"ID\":\"x\"}}\n\
            {\"Type\":\"container\",\"Action\":\"exec_start: sh\",\"Actor\":{\"ID\":\"x\"}}\n";
        assert_eq!(read(&mut EventReader::new(BodyLength::UntilClose), text.as_bytes()), []);
    }

    proptest! {
        #[test]
        fn any_bytes_do_not_panic(pieces in prop::collection::vec(
            prop::collection::vec(any::<u8>(), 0..100), 0..20,
        )) {
            let mut reader = EventReader::new(BodyLength::UntilClose);
            for piece in pieces {
                read(&mut reader, &piece);
            }
        }
    }
}
