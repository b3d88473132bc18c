//! Which paths a znode may have (spec: client protocol, section 8).

use thiserror::Error;

/// Why a path is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PathError {
    /// The path has no characters.
    #[error("a path must not be empty")]
    Empty,
    /// The path does not begin at the root.
    #[error("path {path:?} must start with '/'")]
    Relative {
        /// The path.
        path: String,
    },
    /// The path ends with a slash.
    #[error("path {path:?} must not end with '/'")]
    TrailingSlash {
        /// The path.
        path: String,
    },
    /// Two slashes follow each other.
    #[error("path {path:?} has an empty component at byte {at}")]
    EmptyComponent {
        /// The path.
        path: String,
        /// Where the component would begin.
        at: usize,
    },
    /// A component is `.` or `..`.
    #[error("path {path:?} has a relative component at byte {at}: '.' and '..' are not allowed")]
    RelativeComponent {
        /// The path.
        path: String,
        /// Where the component begins.
        at: usize,
    },
    /// A character that znode names may not have.
    #[error(
        "path {path:?} has the character U+{:04X} at byte {at}, which is not allowed",
        *found as u32
    )]
    Character {
        /// The path.
        path: String,
        /// Where the character is.
        at: usize,
        /// The character.
        found: char,
    },
}

/// Checks that `path` may name a znode.
///
/// ```
/// use quorate_proto::path;
/// assert!(path::validate("/app/config").is_ok());
/// assert_eq!(path::validate("/app/").unwrap_err().to_string(), "path \"/app/\" must not end with '/'");
/// ```
pub fn validate(path: &str) -> Result<(), PathError> {
    if path.is_empty() {
        return Err(PathError::Empty);
    }
    if !path.starts_with('/') {
        return Err(PathError::Relative {
            path: path.to_owned(),
        });
    }
    if path == "/" {
        return Ok(());
    }
    if path.ends_with('/') {
        return Err(PathError::TrailingSlash {
            path: path.to_owned(),
        });
    }
    let mut at = 1;
    for component in path[1..].split('/') {
        match component {
            "" => {
                return Err(PathError::EmptyComponent {
                    path: path.to_owned(),
                    at,
                });
            }
            "." | ".." => {
                return Err(PathError::RelativeComponent {
                    path: path.to_owned(),
                    at,
                });
            }
            _ => {}
        }
        // Nearly every path is printable ASCII, which a scan of the bytes settles.
        if !component.bytes().all(|b| (b' '..0x7f).contains(&b))
            && let Some((i, found)) = component.char_indices().find(|(_, c)| is_forbidden(*c))
        {
            return Err(PathError::Character {
                path: path.to_owned(),
                at: at + i,
                found,
            });
        }
        at += component.len() + 1;
    }
    Ok(())
}

/// Checks the beginning of a sequential znode's path: the server's counter may make up the whole
/// last component.
pub fn validate_sequential(path: &str) -> Result<(), PathError> {
    match path.strip_suffix('/') {
        Some("") => Ok(()),
        Some(parent) => validate(parent),
        None => validate(path),
    }
}

/// Characters beyond U+FFFF are refused because they are surrogates to a server that looks at
/// UTF-16 units.
fn is_forbidden(c: char) -> bool {
    matches!(c,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..)
}

/// The parent of an absolute path; `None` for the root and for what has no slash.
pub fn parent(path: &str) -> Option<&str> {
    match path.rfind('/')? {
        0 if path.len() == 1 => None,
        0 => Some("/"),
        at => Some(&path[..at]),
    }
}

/// The last component of an absolute path; empty for the root.
pub fn name(path: &str) -> &str {
    path.rfind('/').map_or(path, |at| &path[at + 1..])
}

/// The path of the child `name` of `parent`.
pub fn join(parent: &str, name: &str) -> String {
    if parent == "/" {
        format!("/{name}")
    } else {
        format!("{parent}/{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_zookeeper_accepts() {
        for path in [
            "/",
            "/a",
            "/a/b",
            "/...",
            "/a.",
            "/ü/世界",
            "/\u{f900}",
            "/a b",
        ] {
            assert_eq!(validate(path), Ok(()), "{path:?}");
        }
    }

    #[test]
    fn says_why_and_where_it_refuses() {
        let at = |path: &str| match validate(path) {
            Err(
                PathError::EmptyComponent { at, .. }
                | PathError::RelativeComponent { at, .. }
                | PathError::Character { at, .. },
            ) => Some(at),
            other => panic!("{path:?}: {other:?}"),
        };
        assert_eq!(validate(""), Err(PathError::Empty));
        assert!(matches!(validate("a"), Err(PathError::Relative { .. })));
        assert!(matches!(
            validate("/a/"),
            Err(PathError::TrailingSlash { .. })
        ));
        assert_eq!(at("/a//b"), Some(3));
        assert_eq!(at("/a/./b"), Some(3));
        assert_eq!(at("/a/.."), Some(3));
        assert_eq!(at("/a\0"), Some(2));
        assert_eq!(at("/a/b\u{1f}"), Some(4));
        assert_eq!(at("/\u{7f}"), Some(1));
        assert_eq!(at("/\u{e000}"), Some(1));
        assert_eq!(at("/\u{fff0}"), Some(1));
        assert_eq!(at("/😀"), Some(1));
    }

    #[test]
    fn takes_paths_apart() {
        assert_eq!((parent("/"), name("/")), (None, ""));
        assert_eq!((parent("/a"), name("/a")), (Some("/"), "a"));
        assert_eq!((parent("/a/b"), name("/a/b")), (Some("/a"), "b"));
        assert_eq!(
            (join("/", "a"), join("/a", "b")),
            ("/a".into(), "/a/b".into())
        );
        assert!(validate_sequential("/a/").is_ok());
        assert!(validate_sequential("/").is_ok());
        assert!(validate_sequential("/a//").is_err());
    }
}
