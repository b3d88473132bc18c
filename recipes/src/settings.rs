//! What the recipes that put znodes under a path are told about them.

use quorate_client::{Acl, Client, OPEN_ACL};

use crate::layout::{Layout, Naming};
use crate::protect::Site;

/// Where a recipe is, and what its znodes look like.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) client: Client,
    pub(crate) path: String,
    pub(crate) layout: Layout,
    pub(crate) data: Vec<u8>,
    pub(crate) acl: Vec<Acl<'static>>,
}

impl Settings {
    pub(crate) fn new(client: &Client, path: impl Into<String>) -> Self {
        Settings {
            client: client.clone(),
            path: path.into(),
            layout: Layout::default(),
            data: Vec::new(),
            acl: OPEN_ACL.to_vec(),
        }
    }

    /// The place of znodes that are named so.
    pub(crate) fn site(&self, naming: Naming) -> Site<'_> {
        Site {
            client: &self.client,
            path: &self.path,
            naming,
            data: &self.data,
            acl: &self.acl,
        }
    }
}

/// The methods with which a recipe that has `settings` is set up. Each name that is given makes one.
macro_rules! setters {
    ($($setter:ident),*) => {
        $(setters!(@$setter);)*

        /// The path.
        pub fn path(&self) -> &str {
            &self.settings.path
        }
    };
    (@layout) => {
        /// Names the znodes as another library does.
        pub fn layout(mut self, layout: $crate::Layout) -> Self {
            self.settings.layout = layout;
            self
        }
    };
    (@data) => {
        /// What others find in the znodes that stand for this participant, such as the name of its
        /// host; nothing unless set. Text, because kazoo reads it as such.
        pub fn data(mut self, data: impl Into<String>) -> Self {
            self.settings.data = data.into().into_bytes();
            self
        }
    };
    (@acl) => {
        /// Who may do what with the znodes that are created; everybody everything unless set.
        /// All who take part must be able to read the path, and to create and delete its children.
        pub fn acl(mut self, acl: impl Into<Vec<$crate::Acl<'static>>>) -> Self {
            self.settings.acl = acl.into();
            self
        }
    };
}
pub(crate) use setters;
