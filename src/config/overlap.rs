//! Whether two file patterns can name the same file: pure, and slightly pessimistic.
//!
//! Decides warnings (one file, two sources) and the refusal of feedback loops (a source
//! that reads what a sink writes). A character class counts as any character, so the
//! answer may be yes where it is no; never the other way round.

/// Alternatives of `{a,b}` that are tried; a pattern with more is taken to overlap.
const ALTERNATIVES_MAX: usize = 64;

/// One character of a path component, or a run of them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Is(char),
    Any,
    Run,
}

#[derive(Clone, PartialEq, Eq)]
enum Component {
    /// `**`: any number of components.
    Many,
    One(Vec<Token>),
}

/// Whether some path matches both patterns (globs with `*`, `?`, `[]`, `{}`, `**`).
pub fn may_overlap(a: &str, b: &str) -> bool {
    let (Some(a), Some(b)) = (alternatives(a), alternatives(b)) else { return true };
    let a: Vec<_> = a.iter().map(|p| components(p)).collect();
    let b: Vec<_> = b.iter().map(|p| components(p)).collect();
    a.iter().any(|a| b.iter().any(|b| paths_meet(a, b)))
}

/// Paths that the pattern matches, one for each alternative: `*` becomes `x`.
pub fn samples(pattern: &str) -> Vec<String> {
    let mut out = Vec::new();
    for pattern in alternatives(pattern).unwrap_or_default() {
        let parts: Vec<String> = components(&pattern)
            .iter()
            .map(|c| match c {
                Component::Many => "x".to_owned(),
                Component::One(tokens) => {
                    tokens.iter().map(|t| if let Token::Is(c) = t { *c } else { 'x' }).collect()
                }
            })
            .collect();
        out.push(parts.join("/"));
    }
    out
}

/// A path as a pattern that matches it alone.
pub fn escaped(path: &str) -> String {
    globset::escape(path)
}

fn paths_meet(a: &[Component], b: &[Component]) -> bool {
    meet(a.len(), b.len(), |i, j, known| match (a.get(i), b.get(j)) {
        (None, None) => true,
        (Some(Component::Many), _) if known(i + 1, j) => true,
        (_, Some(Component::Many)) if known(i, j + 1) => true,
        (Some(Component::Many), Some(_)) => known(i, j + 1),
        (Some(_), Some(Component::Many)) => known(i + 1, j),
        (Some(Component::One(x)), Some(Component::One(y))) => {
            known(i + 1, j + 1) && names_meet(x, y)
        }
        _ => false,
    })
}

fn names_meet(a: &[Token], b: &[Token]) -> bool {
    meet(a.len(), b.len(), |i, j, known| match (a.get(i), b.get(j)) {
        (None, None) => true,
        (Some(Token::Run), _) if known(i + 1, j) => true,
        (_, Some(Token::Run)) if known(i, j + 1) => true,
        (Some(Token::Run), Some(_)) => known(i, j + 1),
        (Some(_), Some(Token::Run)) => known(i + 1, j),
        (Some(Token::Is(x)), Some(Token::Is(y))) => x == y && known(i + 1, j + 1),
        (Some(_), Some(_)) => known(i + 1, j + 1),
        _ => false,
    })
}

/// Fills a table from both ends backwards: `step(i, j)` tells whether the rest of the
/// one from `i` and of the other from `j` meet, given the answers further on.
fn meet(
    rows: usize,
    columns: usize,
    step: impl Fn(usize, usize, &dyn Fn(usize, usize) -> bool) -> bool,
) -> bool {
    let mut table = vec![vec![false; columns + 1]; rows + 1];
    for i in (0..=rows).rev() {
        for j in (0..=columns).rev() {
            let known = |i: usize, j: usize| i <= rows && j <= columns && table[i][j];
            let answer = step(i, j, &known);
            table[i][j] = answer;
        }
    }
    table[0][0]
}

fn components(pattern: &str) -> Vec<Component> {
    pattern
        .split('/')
        .map(|name| if name == "**" { Component::Many } else { Component::One(tokens(name)) })
        .collect()
}

fn tokens(name: &str) -> Vec<Token> {
    let mut out = Vec::new();
    let mut chars = name.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '*' => Token::Run,
            '?' => Token::Any,
            '\\' => Token::Is(chars.next().unwrap_or('\\')),
            '[' => class(&mut chars),
            c => Token::Is(c),
        });
    }
    out
}

/// The rest of a character class; one character that stands for itself is that character.
fn class(chars: &mut std::str::Chars<'_>) -> Token {
    let mut inside = Vec::new();
    for c in chars.by_ref() {
        if c == ']' && !inside.is_empty() && inside != ['!'] && inside != ['^'] {
            break;
        }
        inside.push(c);
    }
    match inside[..] {
        [only] => Token::Is(only),
        _ => Token::Any,
    }
}

/// The pattern without `{a,b}`: all its alternatives; None when there are too many.
fn alternatives(pattern: &str) -> Option<Vec<String>> {
    let mut out = Vec::new();
    let mut open = vec![pattern.to_owned()];
    while let Some(pattern) = open.pop() {
        if open.len() + out.len() > ALTERNATIVES_MAX {
            return None;
        }
        match braces(&pattern) {
            Some((from, to, parts)) => {
                for part in parts {
                    open.push(format!("{}{part}{}", &pattern[..from], &pattern[to..]));
                }
            }
            None => out.push(pattern),
        }
    }
    Some(out)
}

/// The first outermost `{...}`: its range, and its alternatives.
fn braces(pattern: &str) -> Option<(usize, usize, Vec<&str>)> {
    let (mut from, mut part, mut depth) = (0, 0, 0);
    let mut parts = Vec::new();
    let (mut escaped, mut in_class) = (false, false);
    for (at, c) in pattern.char_indices() {
        let was_escaped = std::mem::take(&mut escaped);
        match c {
            _ if was_escaped => {}
            '\\' => escaped = true,
            '[' => in_class = true,
            ']' => in_class = false,
            _ if in_class => {}
            '{' => {
                depth += 1;
                if depth == 1 {
                    (from, part) = (at, at + 1);
                }
            }
            ',' if depth == 1 => {
                parts.push(&pattern[part..at]);
                part = at + 1;
            }
            '}' if depth == 1 => {
                parts.push(&pattern[part..at]);
                return Some((from, at + 1, parts));
            }
            '}' if depth > 1 => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use globset::GlobBuilder;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_that_meet_and_patterns_that_do_not() {
        for (a, b, want) in [
            ("/var/log/a.log", "/var/log/a.log", true),
            ("/var/log/*.log", "/var/log/a.log", true),
            ("/var/log/*.log", "/var/log/app*", true),
            ("/var/log/*.log", "/var/log/*.txt", false),
            ("/var/log/**/*.log", "/var/log/a.log", true),
            ("/var/log/**/*.log", "/var/log/x/y/a.log", true),
            ("/var/log/*.log", "/var/log/x/a.log", false),
            ("/var/log/**", "/var/log/x", true),
            ("/var/**/x/*.log", "/var/log/**/y/*", false),
            ("/var/**/x/**/*.log", "/var/log/**/y/*", true),
            ("/var/log/{a,b}.log", "/var/log/b.log", true),
            ("/var/log/{a,b/c}.log", "/var/log/b/c.log", true),
            ("/var/log/{a,b}.log", "/var/log/c.log", false),
            ("/var/log/[ab].log", "/var/log/z.log", true),
            ("/var/log/[*].log", "/var/log/z.log", false),
            ("/var/log/?.log", "/var/log/ab.log", false),
            ("/srv/**", "/var/**", false),
            ("/a/\\*", "/a/b", false),
        ] {
            assert_eq!(may_overlap(a, b), want, "{a} {b}");
            assert_eq!(may_overlap(b, a), want, "{b} {a}");
        }
    }

    proptest! {
        /// The promise: where globset matches, the answer is yes.
        #[test]
        fn a_path_that_matches_always_overlaps(
            pattern in "/[ab*?/]{0,6}(/\\*\\*)?(/[ab*?]{1,4})?",
            path in "(/[ab]{1,3}){1,4}",
        ) {
            let glob = GlobBuilder::new(&pattern).literal_separator(true).build();
            if glob.is_ok_and(|glob| glob.compile_matcher().is_match(&path)) {
                prop_assert!(may_overlap(&pattern, &path), "{} {}", pattern, path);
            }
        }

        #[test]
        fn any_text_is_a_pattern(a in any::<String>(), b in "[a{},/*\\[\\]\\\\]{0,20}") {
            may_overlap(&a, &b);
            samples(&b);
        }
    }
}
