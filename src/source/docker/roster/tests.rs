//! What lanes are told, step by step, with recorded inspections and inboxes of any size.

use crossbeam_channel::{Receiver, bounded};
use polling::Poller;

use super::*;
use crate::ack::ContainerIdentity;
use crate::config::checked::{ContainerFilter, Endpoint, LongLines, ReadWay};
use crate::record::Place;
use crate::source::FileEvent;
use crate::source::docker::DockerEvent;
use crate::source::docker::inspect::recorded;
use crate::units::ByteSize;

struct Inboxes {
    lanes: Lanes,
    file: Receiver<FileEvent>,
    docker: Receiver<DockerEvent>,
}

impl Inboxes {
    fn new(events: usize) -> Self {
        let (file_tx, file) = bounded(events);
        let (docker_tx, docker) = bounded(events);
        let poller = Arc::new(Poller::new().unwrap());
        Self {
            lanes: Lanes { files: vec![file_tx], docker: vec![(docker_tx, poller)] },
            file,
            docker,
        }
    }

    fn told(&self) -> Vec<String> {
        let file = self.file.try_iter().map(|event| match event {
            FileEvent::Container(c) => format!("file {} {:?}", c.name, c.start_at),
            FileEvent::ContainerGone { id, .. } => format!("file gone {id:.1}"),
            other => panic!("{other:?}"),
        });
        let docker = self.docker.try_iter().map(|event| match event {
            DockerEvent::Container(c) => format!("api {} {} {:?}", c.name, c.running, c.start_at),
            DockerEvent::Started { id, .. } => format!("started {id:.1}"),
            DockerEvent::Died { id, .. } => format!("died {id:.1}"),
            DockerEvent::Gone { id, .. } => format!("api gone {id:.1}"),
            DockerEvent::EngineUp { engine } => format!("up {engine}"),
            DockerEvent::EngineDown { engine } => format!("down {engine}"),
            DockerEvent::Stop => panic!("no stop is told"),
        });
        file.chain(docker).collect()
    }
}

fn source(read: ReadWay) -> DockerSource {
    DockerSource {
        name: "local".into(),
        endpoint: Endpoint::Unix("/run/docker.sock".into()),
        read,
        include: ContainerFilter::default(),
        exclude: ContainerFilter::default(),
        labels: vec![("host".into(), "h".into())],
        line_bytes_max: ByteSize::kib(256),
        long_lines: LongLines::Split,
        partial_wait: std::time::Duration::from_secs(5),
        start_at: StartAt::End,
        sinks: vec![0],
    }
}

fn roster_of(source: DockerSource, positions: &[Position]) -> Roster {
    let mut roster = Roster::new(3, Arc::new(source), positions, Some(id('f')), 1);
    roster.engine_up(&"1.41".into());
    roster
}

fn roster(read: ReadWay) -> Roster {
    roster_of(source(read), &[])
}

fn id(digit: char) -> String {
    digit.to_string().repeat(64)
}

fn position(digit: char, source: &str) -> Position {
    let identity = ContainerIdentity { source: source.into(), id: id(digit), name: "x".into() };
    Position { identity: Identity::Container(identity), place: Place::at(1), gone_since_ns: None }
}

fn listed(digit: char, name: &str, state: &str) -> Listed {
    let text = format!(r#"{{"Id":"{}","Names":["/{name}"],"State":"{state}"}}"#, id(digit));
    serde_json::from_str(&text).unwrap()
}

fn inspection(digit: char, name: &str, driver: &str, running: bool, path: &str) -> Inspected {
    let text = format!(
        r#"{{"Id":"{}","Name":"/{name}","State":{{"Running":{running}}},"LogPath":"{path}",
        "Config":{{"Image":"i"}},"HostConfig":{{"LogConfig":{{"Type":"{driver}"}}}}}}"#,
        id(digit)
    );
    serde_json::from_str(&text).unwrap()
}

fn happened(action: Action, digit: char) -> ContainerEvent {
    ContainerEvent::Happened { action, id: id(digit) }
}

fn readable(_: &Path) -> io::Result<()> {
    Ok(())
}

fn forbidden(_: &Path) -> io::Result<()> {
    Err(io::ErrorKind::PermissionDenied.into())
}

fn wanted(roster: &mut Roster) -> Vec<char> {
    std::iter::from_fn(|| roster.next_wanted()).filter_map(|id| id.chars().next()).collect()
}

#[test]
fn containers_of_the_first_list_ever_start_where_the_source_says_later_ones_at_the_beginning() {
    let (mut roster, inboxes) = (roster(ReadWay::Auto), Inboxes::new(9));
    // Created after the stream was opened: new, though the list has it.
    roster.event(&happened(Action::Create, 'b'));
    roster.listed(&[listed('a', "a", "running"), listed('b', "b", "created")]);
    assert_eq!(wanted(&mut roster), ['b', 'a']);
    roster.inspected(&inspection('a', "a", "local", true, ""), readable);
    roster.inspected(&inspection('b', "b", "local", false, ""), readable);
    assert_eq!(roster.tell(&inboxes.lanes), Told::All);
    assert_eq!(inboxes.told(), ["up 3", "api a true End", "api b false Beginning"]);
    roster.listed(&[listed('a', "a", "running"), listed('c', "c", "running")]);
    assert_eq!(wanted(&mut roster), ['c']);
    roster.inspected(&inspection('c', "c", "local", true, ""), readable);
    roster.tell(&inboxes.lanes);
    assert_eq!(inboxes.told(), ["api c true Beginning", "api gone b"]);
}

#[test]
fn a_source_with_a_position_begins_new_containers_at_the_beginning_and_reports_the_removed() {
    let positions = [position('a', "local"), position('d', "local"), position('e', "other")];
    let mut roster = roster_of(source(ReadWay::Auto), &positions);
    let inboxes = Inboxes::new(9);
    roster.listed(&[listed('a', "a", "running"), listed('b', "b", "running")]);
    roster.inspected(&inspection('b', "b", "local", true, ""), readable);
    // Its place is one in the API's stream: it stays there, readable file or not.
    roster.inspected(&inspection('a', "a", "json-file", true, "/x"), readable);
    roster.tell(&inboxes.lanes);
    let told = ["up 3", "api b true Beginning", "api a true Beginning", "api gone d"];
    assert_eq!(inboxes.told(), told);
}

#[test]
fn a_json_file_container_is_decided_at_its_first_start() {
    let (mut roster, inboxes) = (roster(ReadWay::Auto), Inboxes::new(9));
    roster.listed(&[]);
    let created = recorded("02-inspect-created.http");
    roster.event(&ContainerEvent::Happened { action: Action::Create, id: created.id.clone() });
    assert_eq!(roster.next_wanted(), Some(created.id.clone()));
    assert!(matches!(roster.inspected(&created, readable), Outcome::Quiet));
    assert_eq!((roster.tell(&inboxes.lanes), roster.followed()), (Told::All, 0));
    roster.event(&ContainerEvent::Happened { action: Action::Start, id: created.id.clone() });
    assert_eq!(roster.next_wanted(), Some(created.id.clone()));
    let text = format!(
        r#"{{"Id":"{}","Name":"/n","LogPath":"/l","State":{{"Running":true}},
        "HostConfig":{{"LogConfig":{{"Type":"json-file"}}}}}}"#,
        created.id
    );
    let started = serde_json::from_str(&text).unwrap();
    assert!(matches!(roster.inspected(&started, readable), Outcome::Followed { .. }));
    roster.tell(&inboxes.lanes);
    assert_eq!(inboxes.told(), ["file n Beginning", "up 3"]);
}

#[test]
fn an_unreadable_file_sends_auto_to_the_api_and_holds_json_file() {
    let (mut auto, inboxes) = (roster(ReadWay::Auto), Inboxes::new(9));
    auto.listed(&[listed('a', "a", "running")]);
    let found = inspection('a', "a", "json-file", true, "/log");
    let outcome = auto.inspected(&found, forbidden);
    assert!(matches!(outcome, Outcome::FellBack { .. }), "{outcome:?}");
    auto.tell(&inboxes.lanes);
    assert_eq!(inboxes.told(), ["up 3", "api a true End"]);

    let mut demanding = roster(ReadWay::JsonFile);
    demanding.listed(&[listed('a', "a", "running")]);
    assert_eq!(wanted(&mut demanding), ['a']);
    let outcome = demanding.inspected(&found, forbidden);
    assert!(matches!(outcome, Outcome::Unreadable { .. }), "{outcome:?}");
    assert_eq!((demanding.unreadable(), demanding.followed()), (1, 0));
    // Each list tries again, without saying it again.
    demanding.listed(&[listed('a', "a", "running")]);
    assert_eq!(wanted(&mut demanding), ['a']);
    assert!(matches!(demanding.inspected(&found, forbidden), Outcome::Quiet));
    assert!(matches!(demanding.inspected(&found, readable), Outcome::Followed { .. }));
    demanding.tell(&inboxes.lanes);
    assert_eq!(inboxes.told(), ["file a End", "up 3"]);
}

#[test]
fn a_file_that_is_missing_amid_a_rotation_is_looked_for_again() {
    let mut roster = roster(ReadWay::Auto);
    roster.listed(&[listed('a', "a", "running")]);
    let found = inspection('a', "a", "json-file", true, "/log");
    let missing = |_: &Path| Err(io::ErrorKind::NotFound.into());
    assert!(matches!(roster.inspected(&found, missing), Outcome::Again));
    assert!(matches!(roster.inspected(&found, missing), Outcome::FellBack { .. }));
}

#[test]
fn what_cannot_be_read_is_said_once() {
    let mut roster = roster(ReadWay::Auto);
    let none = recorded("10-inspect-none.http");
    roster.event(&ContainerEvent::Happened { action: Action::Create, id: none.id.clone() });
    assert!(matches!(roster.inspected(&none, readable), Outcome::LeftOut { .. }));
    assert!(matches!(roster.inspected(&none, readable), Outcome::Quiet));
}

#[test]
fn our_own_container_is_not_known() {
    let mut roster = roster(ReadWay::Api);
    roster.event(&happened(Action::Start, 'f'));
    roster.listed(&[listed('f', "own", "running")]);
    assert_eq!(wanted(&mut roster), []);
}

#[test]
fn a_run_that_ends_and_begins_is_told_with_the_container() {
    let (mut roster, inboxes) = (roster(ReadWay::Api), Inboxes::new(9));
    roster.listed(&[listed('a', "a", "running")]);
    roster.inspected(&inspection('a', "a", "json-file", true, "/log"), readable);
    roster.tell(&inboxes.lanes);
    roster.event(&happened(Action::Die, 'a'));
    roster.tell(&inboxes.lanes);
    roster.event(&happened(Action::Start, 'a'));
    roster.tell(&inboxes.lanes);
    let told = inboxes.told();
    assert_eq!(told[2..], ["api a false End", "died a", "api a true End", "started a"]);
    // Missed events show in the next list.
    roster.listed(&[listed('a', "a", "exited")]);
    roster.tell(&inboxes.lanes);
    assert_eq!(inboxes.told(), ["api a false End", "died a"]);
}

#[test]
fn a_rename_changes_the_label_and_is_told_again() {
    let (mut roster, inboxes) = (roster(ReadWay::Auto), Inboxes::new(9));
    roster.listed(&[listed('a', "a", "running")]);
    roster.inspected(&inspection('a', "a", "json-file", true, "/log"), readable);
    roster.tell(&inboxes.lanes);
    inboxes.told();
    roster.inspected(&inspection('a', "a", "json-file", true, "/log"), forbidden);
    roster.tell(&inboxes.lanes);
    assert_eq!(inboxes.told(), [""; 0], "nothing new is not told");
    roster.event(&happened(Action::Rename, 'a'));
    while roster.next_wanted().is_some() {}
    roster.inspected(&inspection('a', "b", "json-file", true, "/log"), forbidden);
    roster.tell(&inboxes.lanes);
    assert_eq!(inboxes.told(), ["file b End"]);
}

#[test]
fn full_inboxes_lose_nothing_and_keep_the_order() {
    let (mut roster, inboxes) = (roster(ReadWay::Api), Inboxes::new(1));
    let digits = ['a', 'b', 'c', 'd'];
    roster.listed(&digits.map(|d| listed(d, &d.to_string(), "running")));
    for d in digits {
        roster.inspected(&inspection(d, &d.to_string(), "local", true, ""), readable);
    }
    roster.event(&happened(Action::Destroy, 'd'));
    let mut told = Vec::new();
    for _ in 0..20 {
        let state = roster.tell(&inboxes.lanes);
        told.extend(inboxes.told());
        if state == Told::All {
            break;
        }
    }
    assert_eq!(told[0], "up 3");
    let mut rest = told[1..].to_vec();
    rest.sort();
    assert_eq!(rest, ["api a true End", "api b true End", "api c true End", "api gone d"]);
}

#[test]
fn after_a_reconnect_api_containers_are_told_again_with_the_new_version() {
    let (mut roster, inboxes) = (roster(ReadWay::Api), Inboxes::new(9));
    roster.listed(&[listed('a', "a", "running")]);
    roster.inspected(&inspection('a', "a", "local", true, ""), readable);
    roster.tell(&inboxes.lanes);
    roster.engine_down();
    roster.tell(&inboxes.lanes);
    roster.engine_up(&"1.44".into());
    roster.listed(&[listed('a', "a", "running")]);
    roster.tell(&inboxes.lanes);
    assert_eq!(inboxes.told()[2..], ["down 3", "up 3", "api a true End"]);
    assert_eq!(wanted(&mut roster), ['a']);
}

#[test]
fn containers_have_a_bound() {
    let mut roster = roster(ReadWay::Api);
    let list: Vec<Listed> = (0..limits::DOCKER_CONTAINERS_MAX + 2)
        .map(|n| serde_json::from_str(&format!(r#"{{"Id":"{n:064x}"}}"#)).unwrap())
        .collect();
    roster.listed(&list);
    assert_eq!((roster.containers.len(), roster.too_many()), (limits::DOCKER_CONTAINERS_MAX, 2));
}
