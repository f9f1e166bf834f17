//! `${VAR}` in the scalars of a config, after the YAML is parsed.
//!
//! After, so that no value of a variable can change the structure of the file. Reads
//! the environment only through `Env`, which tests replace.

use std::fmt;
use std::path::PathBuf;

/// What a config may ask of its surroundings.
pub trait Env {
    /// An environment variable; None when it is unset or not UTF-8.
    fn var(&self, name: &str) -> Option<String>;
    /// The host's name, for `${HOSTNAME}` and the label `host`.
    fn hostname(&self) -> String;
    /// The directory that relative paths start from.
    fn working_dir(&self) -> PathBuf;
}

/// The process's own surroundings.
pub struct SystemEnv;

impl Env for SystemEnv {
    fn var(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn hostname(&self) -> String {
        let uname = rustix::system::uname();
        let name = uname.nodename().to_string_lossy();
        if name.is_empty() || name == "(none)" {
            return "localhost".to_owned();
        }
        name.into_owned()
    }

    fn working_dir(&self) -> PathBuf {
        // A working directory that was removed has no name; "/" keeps paths absolute.
        std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"))
    }
}

/// Why a text cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpandError {
    /// `${` without its `}`.
    Unclosed,
    /// Not a name that a variable can have.
    Name(String),
    /// No such variable, and no default given.
    Unset(String),
}

impl fmt::Display for ExpandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unclosed => f.write_str("`${` has no closing `}`"),
            Self::Name(name) => write!(f, "`${{{name}}}` does not name a variable"),
            Self::Unset(name) => write!(f, "the environment variable {name} is not set"),
        }
    }
}

impl ExpandError {
    /// Completes "expected ...".
    pub fn expected(&self) -> String {
        match self {
            Self::Unclosed | Self::Name(_) => {
                "`${NAME}` or `${NAME:-default}` (`$$` for a dollar sign)".to_owned()
            }
            Self::Unset(name) => {
                format!("it in the environment, or a default: `${{{name}:-default}}`")
            }
        }
    }
}

/// Replaces `${NAME}` and `${NAME:-default}` (the default where the variable is unset or
/// empty) and makes `$$` a dollar sign. Any other `$` stays. `HOSTNAME` is always known.
///
/// # Errors
/// An unclosed `${`, a bad name, an unset variable without default.
pub fn expand(text: &str, env: &dyn Env) -> Result<String, ExpandError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let end = after.find('}').ok_or(ExpandError::Unclosed)?;
            out.push_str(&variable(&after[..end], env)?);
            rest = &after[end + 1..];
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn variable(inside: &str, env: &dyn Env) -> Result<String, ExpandError> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(good) || name.starts_with(|c: char| c.is_ascii_digit())
    {
        return Err(ExpandError::Name(inside.to_owned()));
    }
    if name == "HOSTNAME" {
        return Ok(env.hostname());
    }
    match (env.var(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(ExpandError::Unset(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Env for Fixed {
        fn var(&self, name: &str) -> Option<String> {
            [("A", "1"), ("EMPTY", "")]
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| (*v).to_owned())
        }

        fn hostname(&self) -> String {
            "box".to_owned()
        }

        fn working_dir(&self) -> PathBuf {
            PathBuf::from("/w")
        }
    }

    #[test]
    fn variables_defaults_and_dollars() {
        for (text, want) in [
            ("", ""),
            ("plain", "plain"),
            ("x${A}y${A}", "x1y1"),
            ("${B:-d}", "d"),
            ("${EMPTY:-d}", "d"),
            ("${EMPTY}", ""),
            ("${A:-d}", "1"),
            ("${B:-}", ""),
            ("${B:-a:-b}", "a:-b"),
            ("$$A $${A} 5$ $x", "$A ${A} 5$ $x"),
            ("${HOSTNAME}", "box"),
            ("é${A}é", "é1é"),
        ] {
            assert_eq!(expand(text, &Fixed).as_deref(), Ok(want), "{text}");
        }
        assert_eq!(expand("a${A", &Fixed), Err(ExpandError::Unclosed));
        assert_eq!(expand("${A b}", &Fixed), Err(ExpandError::Name("A b".into())));
        assert_eq!(expand("${}", &Fixed), Err(ExpandError::Name(String::new())));
        assert_eq!(expand("${1}", &Fixed), Err(ExpandError::Name("1".into())));
        assert_eq!(expand("${B}", &Fixed), Err(ExpandError::Unset("B".into())));
    }
}
