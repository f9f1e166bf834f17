//! The config file as it is written: a serde mirror that keeps whatever it finds.
//!
//! The only file that derives Deserialize for user input. Nothing is judged here, so that
//! the checks can report every mistake at once: a leaf is a [`Scalar`] of any type, and a
//! section or list that turns out to be something else says so as a value. What serde
//! itself still refuses are texts that are not YAML. Fields have the names of the keys;
//! `keys` lists them for "did you mean" and for the test that the manual has them all.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::Value;

/// What stands where something else was expected; its text completes "this is ...".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Text,
    List,
    Section,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "a single value",
            Self::List => "a list",
            Self::Section => "a section of keys",
        })
    }
}

/// A leaf of any type.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Scalar {
    #[default]
    Unset,
    /// `key:` with nothing behind it, or `null`.
    Empty,
    Text(String),
    /// A number or boolean, displayed; the text as written is in the marks.
    Plain(String),
    Wrong(Shape),
}

/// A mapping with known keys.
#[derive(Clone, Debug, Default)]
pub enum Section<T> {
    #[default]
    Unset,
    Given(T),
    Wrong(Shape),
}

/// A list.
#[derive(Clone, Debug, Default)]
pub enum List<T> {
    #[default]
    Unset,
    Given(Vec<T>),
    Wrong(Shape),
}

/// A mapping whose keys the user chooses, in the order written.
#[derive(Clone, Debug, Default)]
pub enum Entries {
    #[default]
    Unset,
    Given(Vec<(String, Scalar)>),
    Wrong(Shape),
}

/// A key whose content this version does not support.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Later {
    /// Absent, or an empty list or section.
    #[default]
    Unset,
    Given,
}

/// Lists the keys of a type, leaves only.
pub trait Keys {
    /// Appends the keys below `prefix`, in the form of `Key::general`.
    fn keys(prefix: &str, out: &mut Vec<String>);
}

macro_rules! leaf {
    ($($type:ty => $suffix:literal),*) => {
        $(impl Keys for $type {
            fn keys(prefix: &str, out: &mut Vec<String>) {
                out.push(format!("{prefix}{}", $suffix));
            }
        })*
    };
}

leaf!(Scalar => "", Later => "", Entries => "");

impl Keys for List<Scalar> {
    fn keys(prefix: &str, out: &mut Vec<String>) {
        out.push(prefix.to_owned());
    }
}

impl<T: Keys> Keys for List<Section<T>> {
    fn keys(prefix: &str, out: &mut Vec<String>) {
        T::keys(&format!("{prefix}[]"), out);
    }
}

impl<T: Keys> Keys for Section<T> {
    fn keys(prefix: &str, out: &mut Vec<String>) {
        T::keys(prefix, out);
    }
}

macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(default)]
        pub struct $name {
            $(pub $field: $type,)*
        }

        impl Keys for $name {
            fn keys(prefix: &str, out: &mut Vec<String>) {
                $(
                    let name = stringify!($field).trim_start_matches("r#");
                    let point = if prefix.is_empty() { "" } else { "." };
                    <$type>::keys(&format!("{prefix}{point}{name}"), out);
                )*
            }
        }
    };
}

section!(
    /// The whole file.
    Raw {
        data_dir: Scalar,
        log: Section<Log>,
        server: Section<Server>,
        readers: Section<Readers>,
        shutdown_timeout: Scalar,
        labels: Entries,
        stages: Later,
        sources: Section<Sources>,
        sinks: List<Section<Sink>>,
        dead_letters: Section<DeadLetters>,
    }
);

section!(Log { level: Scalar, format: Scalar });

section!(Server { listen: Scalar });

section!(Readers { files: Scalar, docker: Scalar });

section!(DeadLetters { bytes: Scalar, age: Scalar });

section!(
    Sources {
        files: List<Section<FileSource>>,
        docker: List<Section<DockerSource>>,
    }
);

section!(
    FileSource {
        name: Scalar,
        include: List<Scalar>,
        exclude: List<Scalar>,
        labels: Entries,
        start_at: Scalar,
        timezone: Later,
        stages: Later,
        line_bytes_max: Scalar,
        long_lines: Scalar,
        partial_wait: Scalar,
        rotated_grace: Scalar,
        rotated_glob: List<Scalar>,
        sinks: List<Scalar>,
    }
);

section!(
    DockerSource {
        name: Scalar,
        endpoint: Scalar,
        read: Scalar,
        include: Section<ContainerFilter>,
        exclude: Section<ContainerFilter>,
        labels: Entries,
        start_at: Scalar,
        timezone: Later,
        stages: Later,
        line_bytes_max: Scalar,
        long_lines: Scalar,
        partial_wait: Scalar,
        sinks: List<Scalar>,
    }
);

section!(
    ContainerFilter {
        names: List<Scalar>,
        images: List<Scalar>,
        labels: List<Scalar>,
        projects: List<Scalar>,
    }
);

section!(
    /// The keys of every type of sink; the checks refuse those of another type.
    Sink {
        name: Scalar,
        r#type: Scalar,
        required: Scalar,
        batch: Section<Batch>,
        queue: Section<Queue>,
        streams_max: Scalar,
        url: Scalar,
        senders: Scalar,
        timeout: Section<Timeout>,
        retry: Section<Retry>,
        tenant: Scalar,
        auth: Section<Auth>,
        headers: Entries,
        proxy: Scalar,
        tls: Section<Tls>,
        max_age: Scalar,
        max_future: Scalar,
        path: Scalar,
        rotate: Section<Rotate>,
    }
);

section!(Batch { bytes: Scalar, wait: Scalar });

section!(Queue { memory: Scalar, disk: Later, when_full: Scalar });

section!(Timeout { connect: Scalar, request: Scalar });

section!(Retry { initial: Scalar, max: Scalar });

section!(
    Auth {
        basic: Section<Basic>,
        bearer: Scalar,
    }
);

section!(Basic { user: Scalar, password: Scalar });

section!(Tls { ca_file: Scalar, cert_file: Scalar, key_file: Scalar });

section!(Rotate { bytes: Scalar, keep: Scalar, total_bytes: Scalar });

/// Every key of a config file, leaves only: `sources.files[].include`.
pub fn keys() -> Vec<String> {
    let mut out = Vec::new();
    Raw::keys("", &mut out);
    out
}

/// Consumes a list or section that is not looked at. Not `IgnoredAny`: serde_ignored
/// would report its content as unknown keys.
fn drain_seq<'de, A: SeqAccess<'de>>(mut seq: A) -> Result<usize, A::Error> {
    let mut items = 0;
    while seq.next_element::<Value>()?.is_some() {
        items += 1;
    }
    Ok(items)
}

fn drain_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<usize, A::Error> {
    let mut items = 0;
    while map.next_entry::<Value, Value>()?.is_some() {
        items += 1;
    }
    Ok(items)
}

/// The visitor methods for plain values: all give what `$make` makes of the text.
macro_rules! visit_plain {
    ($make:expr, $text:expr, $empty:expr) => {
        fn visit_bool<E>(self, v: bool) -> Result<Self::Value, E> {
            Ok($make(v.to_string()))
        }

        fn visit_i64<E>(self, v: i64) -> Result<Self::Value, E> {
            Ok($make(v.to_string()))
        }

        fn visit_u64<E>(self, v: u64) -> Result<Self::Value, E> {
            Ok($make(v.to_string()))
        }

        fn visit_i128<E>(self, v: i128) -> Result<Self::Value, E> {
            Ok($make(v.to_string()))
        }

        fn visit_u128<E>(self, v: u128) -> Result<Self::Value, E> {
            Ok($make(v.to_string()))
        }

        fn visit_f64<E>(self, v: f64) -> Result<Self::Value, E> {
            Ok($make(v.to_string()))
        }

        fn visit_str<E>(self, v: &str) -> Result<Self::Value, E> {
            Ok($text(v.to_owned()))
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($empty)
        }

        fn visit_none<E>(self) -> Result<Self::Value, E> {
            Ok($empty)
        }

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a value without a tag")
        }
    };
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    visit_plain!(Scalar::Plain, Scalar::Text, Scalar::Empty);

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Scalar, A::Error> {
        drain_seq(seq).map(|_| Scalar::Wrong(Shape::List))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Scalar, A::Error> {
        drain_map(map).map(|_| Scalar::Wrong(Shape::Section))
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct SectionVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for SectionVisitor<T> {
    type Value = Section<T>;

    visit_plain!(|_| Section::Wrong(Shape::Text), |_| Section::Wrong(Shape::Text), Section::Unset);

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Section<T>, A::Error> {
        drain_seq(seq).map(|_| Section::Wrong(Shape::List))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Section<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Section::Given)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Section<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SectionVisitor(PhantomData))
    }
}

struct ListVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
    type Value = List<T>;

    visit_plain!(|_| List::Wrong(Shape::Text), |_| List::Wrong(Shape::Text), List::Unset);

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List<T>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(List::Given(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<List<T>, A::Error> {
        drain_map(map).map(|_| List::Wrong(Shape::Section))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor(PhantomData))
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    visit_plain!(|_| Entries::Wrong(Shape::Text), |_| Entries::Wrong(Shape::Text), Entries::Unset);

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Entries, A::Error> {
        drain_seq(seq).map(|_| Entries::Wrong(Shape::List))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Entries::Given(entries))
    }
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EntriesVisitor)
    }
}

struct LaterVisitor;

impl LaterVisitor {
    fn of(items: usize) -> Later {
        if items == 0 { Later::Unset } else { Later::Given }
    }
}

impl<'de> Visitor<'de> for LaterVisitor {
    type Value = Later;

    visit_plain!(|_| Later::Given, |_| Later::Given, Later::Unset);

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Later, A::Error> {
        drain_seq(seq).map(Self::of)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Later, A::Error> {
        drain_map(map).map(Self::of)
    }
}

impl<'de> Deserialize<'de> for Later {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LaterVisitor)
    }
}
