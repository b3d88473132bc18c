//! The settings in which everything that is granted is used: whose names znodes have, which part of
//! the tree a handle sees, and what servers do that are cut off.

use quorate_recipes::{Client, Layout};

use super::super::stage::Host;
use super::{Bypass, Fail};

/// How the processes of a run use a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// As it comes.
    Plain,
    /// With the names of kazoo.
    Kazoo,
    /// Each of them with the names of Curator or of kazoo: whoever finds the others is told, and
    /// never do two of them hold at once.
    Mixed,
    /// Some through handles that see a part of the tree only.
    Chroot,
    /// On servers that only read when they are cut off.
    Readers,
}

/// The part of the tree that some see as a tree of their own.
const ROOT: [&str; 2] = ["/app", "/app/one"];

/// A handle, and what is in front of paths that all of them share, as the handle sees it.
pub(super) struct Place {
    pub(super) client: Client,
    base: &'static str,
}

impl Place {
    /// A path as the handle sees it.
    pub(super) fn path(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// A path of the handle as servers know it.
    pub(super) fn full(&self, path: &str) -> String {
        match self.client.chroot() {
            "/" => path.to_owned(),
            chroot => format!("{chroot}{path}"),
        }
    }
}

impl Way {
    /// What is in front of shared paths, as servers know it.
    pub(super) fn root(self) -> &'static str {
        match self {
            Way::Chroot => ROOT[1],
            _ => "",
        }
    }

    /// Where a process is this time.
    pub(super) async fn place(
        self,
        host: &Host,
        client: &Client,
        bypass: Bypass,
    ) -> Result<Place, Fail> {
        let client = client.clone();
        if self != Way::Chroot {
            return Ok(Place { client, base: "" });
        }
        for path in ROOT {
            host.prepare(&client, path).await?;
        }
        Ok(match fastrand::u32(..4) {
            0 => Place {
                client: client.with_chroot("/app/one")?,
                base: "",
            },
            1 => Place {
                client: client.with_chroot("/app")?,
                base: "/one",
            },
            2 => Place {
                client: client.with_chroot("/app")?.with_chroot("/one")?,
                base: "",
            },
            _ if bypass == Some("forgets-chroot") => Place { client, base: "" },
            _ => Place {
                client,
                base: "/app/one",
            },
        })
    }

    /// Whose names the znodes of a process have this time.
    pub(super) fn layout(self) -> Layout {
        match self {
            Way::Kazoo => Layout::Kazoo,
            Way::Mixed if fastrand::bool() => Layout::Kazoo,
            _ => Layout::Curator,
        }
    }
}
