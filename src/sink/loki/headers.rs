//! The headers of a push request; secrets in files are read again when the file changes.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use super::{Auth, Loki, Secret};

/// Builds the headers once and again whenever a secret's file has changed.
pub struct Headers {
    tenant: Option<String>,
    auth: Auth,
    extra: Vec<(String, Secret)>,
    files: Vec<PathBuf>,
    seen: Vec<Option<SystemTime>>,
    built: Option<Vec<(String, String)>>,
}

impl Headers {
    pub fn new(loki: &Loki) -> Self {
        let secrets = loki.headers.iter().map(|(_, secret)| secret);
        let auth = match &loki.auth {
            Auth::None => None,
            Auth::Basic { password, .. } => Some(password),
            Auth::Bearer(token) => Some(token),
        };
        let files = secrets.chain(auth).filter_map(|secret| match secret {
            Secret::File(path) => Some(path.clone()),
            Secret::Value(_) => None,
        });
        Self {
            tenant: loki.tenant.clone(),
            auth: loki.auth.clone(),
            extra: loki.headers.clone(),
            files: files.collect(),
            seen: Vec::new(),
            built: None,
        }
    }

    /// The headers as of now.
    ///
    /// # Errors
    /// A secret's file that cannot be read; names the file, never the secret.
    pub fn now(&mut self) -> Result<&[(String, String)], String> {
        let changed = |path: &PathBuf| fs::metadata(path).and_then(|m| m.modified()).ok();
        let seen: Vec<_> = self.files.iter().map(changed).collect();
        let headers = match self.built.take() {
            Some(built) if seen == self.seen => built,
            _ => self.build()?,
        };
        self.seen = seen;
        Ok(self.built.insert(headers))
    }

    fn build(&self) -> Result<Vec<(String, String)>, String> {
        let mut headers = vec![("Content-Type".to_owned(), "application/x-protobuf".to_owned())];
        if let Some(tenant) = &self.tenant {
            headers.push(("X-Scope-OrgID".to_owned(), tenant.clone()));
        }
        match &self.auth {
            Auth::None => {}
            Auth::Basic { user, password } => {
                let pair = base64(format!("{user}:{}", read(password)?).as_bytes());
                headers.push(("Authorization".to_owned(), format!("Basic {pair}")));
            }
            Auth::Bearer(token) => {
                headers.push(("Authorization".to_owned(), format!("Bearer {}", read(token)?)));
            }
        }
        for (name, value) in &self.extra {
            headers.push((name.clone(), read(value)?));
        }
        Ok(headers)
    }
}

fn read(secret: &Secret) -> Result<String, String> {
    secret.read().map_err(|e| e.to_string())
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |sum, b| sum << 8 | u32::from(*b));
        let group = group << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let digit = DIGITS[(group >> (18 - 6 * i) & 63) as usize];
            out.push(if i <= chunk.len() { digit as char } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (text, code) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(text.as_bytes()), code);
        }
    }

    #[test]
    fn a_secret_file_is_read_again_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let mut headers = Headers {
            tenant: Some("t".to_owned()),
            auth: Auth::Bearer(Secret::File(path.clone())),
            extra: vec![("X-A".to_owned(), Secret::Value("b".to_owned()))],
            files: vec![path.clone()],
            seen: Vec::new(),
            built: None,
        };
        let error = headers.now().unwrap_err();
        assert!(
            error.contains("token: No such file") || error.contains("cannot read the secret"),
            "{error}"
        );
        std::fs::write(&path, "one\n").unwrap();
        let token = |headers: &mut Headers| headers.now().unwrap()[2].1.clone();
        assert_eq!(token(&mut headers), "Bearer one");
        std::fs::write(&path, "two\n").unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(token(&mut headers), "Bearer two");
        let now = headers.now().unwrap();
        assert_eq!(now[1], ("X-Scope-OrgID".to_owned(), "t".to_owned()));
        assert_eq!(now[3], ("X-A".to_owned(), "b".to_owned()));
    }
}
