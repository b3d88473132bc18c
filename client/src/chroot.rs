//! Chroots: the subtree that a handle takes for the whole tree.

use std::borrow::Cow;
use std::sync::Arc;

/// A path that is put in front of every path sent, and taken off every path received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Chroot(Option<Arc<str>>);

impl Chroot {
    /// From a valid path; `/` is no chroot.
    pub(crate) fn new(path: &str) -> Self {
        Chroot((path != "/").then(|| path.into()))
    }

    pub(crate) fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or("/")
    }

    /// The path as the server knows it.
    pub(crate) fn apply<'p>(&self, path: &'p str) -> Cow<'p, str> {
        match &self.0 {
            None => path.into(),
            Some(chroot) if path == "/" => chroot.to_string().into(),
            Some(chroot) => format!("{chroot}{path}").into(),
        }
    }

    /// The path as the user knows it; `None` if it lies outside.
    pub(crate) fn strip<'p>(&self, path: &'p str) -> Option<&'p str> {
        let Some(chroot) = &self.0 else {
            return Some(path);
        };
        match path.strip_prefix(&**chroot)? {
            "" => Some("/"),
            rest => rest.starts_with('/').then_some(rest),
        }
    }

    /// As [`strip`](Chroot::strip), but a path outside stays whole: `/zookeeper/config` is read
    /// through every chroot.
    pub(crate) fn show(&self, path: &str) -> String {
        self.strip(path).unwrap_or(path).to_owned()
    }

    /// The chroot that lies at `path` inside this one.
    pub(crate) fn enter(&self, path: &str) -> Self {
        Chroot::new(&self.apply(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_on_and_comes_off() {
        let chroot = Chroot::new("/app");
        for (path, full) in [("/", "/app"), ("/a", "/app/a"), ("/app", "/app/app")] {
            assert_eq!(chroot.apply(path), full);
            assert_eq!(chroot.strip(full), Some(path));
        }
        assert_eq!(chroot.strip("/apple"), None);
        assert_eq!(chroot.strip("/"), None);
        assert_eq!(chroot.show("/zookeeper/config"), "/zookeeper/config");
        assert_eq!(chroot.enter("/x").as_str(), "/app/x");
        assert_eq!(chroot.enter("/").as_str(), "/app");
    }

    #[test]
    fn the_root_changes_nothing() {
        let root = Chroot::new("/");
        assert_eq!(root, Chroot::default());
        assert_eq!(root.apply("/a"), "/a");
        assert_eq!(root.strip("/a"), Some("/a"));
        assert_eq!(root.enter("/x").as_str(), "/x");
    }
}
