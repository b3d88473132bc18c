//! What the znodes of a recipe are called, so that programs which use another library on the same
//! path take part in it (spec: recipes, sections 2.1, 2.2 and 3.1).

use quorate_client::CreateMode;
use uuid::Uuid;

use crate::error::Error;
use crate::protect::join;

/// Whose names a recipe gives to its znodes.
///
/// Everybody on a path must use the same layout: Curator and kazoo do not see each other's znodes.
/// A znode of the other layout that is found is reported as [`Error::ForeignChild`].
///
/// ```no_run
/// # fn demo(client: quorate_recipes::Client) {
/// use quorate_recipes::{Layout, Lock};
///
/// let shared_with_java = Lock::new(&client, "/locks/billing");
/// let shared_with_python = Lock::new(&client, "/locks/reports").layout(Layout::Kazoo);
/// # }
/// ```
///
/// [`Error::ForeignChild`]: crate::Error::ForeignChild
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Layout {
    /// Curator's, such as `_c_de305d54-75b4-431b-adb2-eb6b9e546014-lock-0000000007`. Every child of
    /// the path must be a contender, as it is for Curator.
    #[default]
    Curator,
    /// kazoo's, such as `de305d5475b4431badb2eb6b9e546014__lock__0000000007`. Children without a
    /// number at the end are none of the lock's business, as for kazoo.
    Kazoo,
}

impl Layout {
    /// The names of an exclusive lock's znodes.
    pub(crate) fn lock(self) -> Naming {
        self.exclusive(match self {
            Layout::Curator => &["lock-"],
            Layout::Kazoo => &["__lock__"],
        })
    }

    /// The names of the candidates of an election.
    pub(crate) fn candidate(self) -> Naming {
        self.exclusive(match self {
            Layout::Curator => &["latch-"],
            Layout::Kazoo => &["__lock__"],
        })
    }

    /// The names of those who wait to write, or do, beside readers.
    pub(crate) fn writer(self) -> Naming {
        self.exclusive(match self {
            Layout::Curator => &["__WRIT__", "__READ__"],
            Layout::Kazoo => &["__lock__", "__rlock__"],
        })
    }

    /// The names of those who wait to read, or do, beside writers.
    pub(crate) fn reader(self) -> Naming {
        let (writers, read): (&[_], _) = match self {
            Layout::Curator => (&["__WRIT__"], "__READ__"),
            Layout::Kazoo => (&["__lock__"], "__rlock__"),
        };
        Naming {
            marker: read,
            fellow: Some(read),
            ..self.exclusive(writers)
        }
    }

    /// The names of a semaphore's permits, which have no order.
    pub(crate) fn permit(self) -> Naming {
        let naming = self.exclusive(&["lease-"]);
        match self {
            Layout::Curator => naming,
            Layout::Kazoo => self.unique(),
        }
    }

    /// Names that are nothing but unique.
    pub(crate) fn unique(self) -> Naming {
        Naming {
            numbered: false,
            ..self.exclusive(&[""])
        }
    }

    /// A queue in which everybody waits for everybody in front; new znodes have the first marker.
    fn exclusive(self, rivals: &'static [&'static str]) -> Naming {
        Naming {
            layout: self,
            marker: rivals[0],
            rivals,
            fellow: None,
            numbered: true,
        }
    }
}

/// The names of one recipe's znodes in one layout: something unique, a marker that tells the
/// recipe, and, where order matters, the number that the server appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Naming {
    layout: Layout,
    marker: &'static str,
    /// Markers of those who go first if they came first.
    rivals: &'static [&'static str],
    /// The marker of those who can hold at the same time.
    fellow: Option<&'static str>,
    numbered: bool,
}

/// What a child of the path is to the recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Child {
    /// Somebody in the queue, with the number that decides about the order.
    Rival(Sequence),
    /// Somebody in the queue for whom nobody of this kind has to wait.
    Fellow(Sequence),
    /// Somebody who does not know of this queue, or whom this queue does not know: waiting for it
    /// could take for ever, and ignoring it could let two hold at once.
    Foreign,
    /// Nothing that concerns the recipe.
    Unrelated,
}

impl Naming {
    /// The name, up to the server's number, of a znode that nobody else creates.
    pub(crate) fn prefix(self, id: Uuid) -> String {
        match self.layout {
            Layout::Curator if self.numbered => format!("_c_{}-{}", id.hyphenated(), self.marker),
            Layout::Curator => id.hyphenated().to_string(),
            Layout::Kazoo => format!("{}{}", id.simple(), self.marker),
        }
    }

    /// How such a znode is created.
    pub(crate) fn mode(self) -> CreateMode {
        match self.numbered {
            true => CreateMode::EphemeralSequential,
            false => CreateMode::Ephemeral,
        }
    }

    /// Tells what a child of the path is.
    pub(crate) fn read(self, name: &str) -> Child {
        let numbered = |marker| {
            let (_, number) = name.rsplit_once(marker)?;
            Sequence::parse(number)
        };
        if let Some(sequence) = self.rivals.iter().copied().find_map(numbered) {
            return Child::Rival(sequence);
        }
        match self.fellow.and_then(numbered) {
            Some(sequence) => Child::Fellow(sequence),
            None if self.layout == Layout::Kazoo && !is_numbered(name) => Child::Unrelated,
            None => Child::Foreign,
        }
    }

    /// Is it the name of such a znode, whoever has created it?
    pub(crate) fn is_one(self, name: &str) -> bool {
        match self.numbered {
            true => self.sequence(name).is_some(),
            false => is_unique(name),
        }
    }

    /// Does everybody come behind those who are there? Not among readers and writers: a writer that
    /// goes on as a reader comes back at its place.
    pub(crate) fn is_in_order(self) -> bool {
        self.numbered && self.rivals == [self.marker]
    }

    /// What follows the marker in the name of such a znode.
    pub(crate) fn number(self, name: &str) -> &str {
        name.rsplit_once(self.marker)
            .map_or("", |(_, number)| number)
    }

    /// The number in the name of somebody in the queue.
    pub(crate) fn sequence(self, name: &str) -> Option<Sequence> {
        match self.read(name) {
            Child::Rival(sequence) | Child::Fellow(sequence) => Some(sequence),
            Child::Foreign | Child::Unrelated => None,
        }
    }
}

/// Is it a name that is nothing but unique?
pub(crate) fn is_unique(name: &str) -> bool {
    Uuid::try_parse(name).is_ok()
}

/// Fails with the first child that is none of `own`.
pub(crate) fn none_foreign(
    path: &str,
    names: &[String],
    own: impl Fn(&str) -> bool,
) -> Result<(), Error> {
    match names.iter().find(|name| !own(name)) {
        Some(name) => Err(Error::ForeignChild {
            path: join(path, name),
        }),
        None => Ok(()),
    }
}

/// Does the name look like one to which a recipe, of whatever library, let the server append a
/// number?
fn is_numbered(name: &str) -> bool {
    let marker = name.trim_end_matches(|c: char| c.is_ascii_digit());
    name.len() - marker.len() >= SHORTEST_NUMBER && marker.ends_with(['-', '_'])
}

/// Servers pad numbers with zeros to so many characters, sign included.
const SHORTEST_NUMBER: usize = 10;

/// From here on a queue should be given another path before the numbers run out.
const SOON_EXHAUSTED: i32 = 2_000_000_000;

/// The number that a server appended to a name. It wraps around to negative numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sequence(i32);

impl Sequence {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let padded = text.len() >= SHORTEST_NUMBER && !text.starts_with('+');
        padded.then(|| text.parse().ok().map(Sequence)).flatten()
    }

    /// How far behind `other` this number was given out; negative if before. Right as long as both
    /// are less than half the numbers apart, wrapped around or not.
    pub(crate) fn behind(self, other: Sequence) -> i32 {
        self.0.wrapping_sub(other.0)
    }

    /// Are the parent's numbers about to run out?
    pub(crate) fn is_soon_exhausted(self) -> bool {
        self.0 >= SOON_EXHAUSTED
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CURATOR: Layout = Layout::Curator;
    const KAZOO: Layout = Layout::Kazoo;

    fn id() -> Uuid {
        Uuid::from_u128(0xde30_5d54_75b4_431b_adb2_eb6b_9e54_6014)
    }

    #[test]
    fn names_are_exactly_those_of_the_other_libraries() {
        assert_eq!(
            CURATOR.lock().prefix(id()),
            "_c_de305d54-75b4-431b-adb2-eb6b9e546014-lock-"
        );
        assert_eq!(
            KAZOO.lock().prefix(id()),
            "de305d5475b4431badb2eb6b9e546014__lock__"
        );
    }

    #[test]
    fn every_child_matters_in_curators_layout() {
        let read = |name| CURATOR.lock().read(name);
        for (name, number) in [
            ("_c_de305d54-75b4-431b-adb2-eb6b9e546014-lock-0000000007", 7),
            ("lock-0000000007", 7),
            ("a-lock-b-lock-0000000007", 7),
            ("lock--2147483648", i32::MIN),
            ("lock--000000005", -5),
        ] {
            assert_eq!(read(name), Child::Rival(Sequence(number)), "{name}");
        }
        for name in [
            "de305d5475b4431badb2eb6b9e546014__lock__0000000007",
            "_c_de305d54-75b4-431b-adb2-eb6b9e546014-__WRIT__0000000007",
            "lock-",
            "lock-7",
            "lock-+000000007",
            "lock-99999999999",
            "leases",
            "0",
        ] {
            assert_eq!(read(name), Child::Foreign, "{name}");
        }
    }

    #[test]
    fn only_numbered_children_matter_in_kazoos_layout() {
        let read = |name| KAZOO.lock().read(name);
        assert_eq!(
            read("de305d5475b4431badb2eb6b9e546014__lock__0000000007"),
            Child::Rival(Sequence(7))
        );
        for name in [
            "_c_de305d54-75b4-431b-adb2-eb6b9e546014-lock-0000000007",
            "de305d5475b4431badb2eb6b9e546014__rlock__0000000007",
        ] {
            assert_eq!(read(name), Child::Foreign, "{name}");
        }
        for name in ["config", "de305d5475b4431badb2e1234567890", "0000000007"] {
            assert_eq!(read(name), Child::Unrelated, "{name}");
        }
    }

    #[test]
    fn readers_wait_for_writers_only() {
        for (layout, read, write) in [
            (
                CURATOR,
                "_c_x-__READ__0000000001",
                "_c_x-__WRIT__0000000001",
            ),
            (KAZOO, "x__rlock__0000000001", "x__lock__0000000001"),
        ] {
            let one = Sequence(1);
            assert_eq!(layout.reader().read(read), Child::Fellow(one));
            assert_eq!(layout.reader().read(write), Child::Rival(one));
            assert_eq!(layout.writer().read(read), Child::Rival(one));
            assert_eq!(layout.writer().read(write), Child::Rival(one));
            assert!(read.contains(layout.reader().marker));
            assert!(write.contains(layout.writer().marker));
            assert_eq!(layout.reader().read("x-lock-0000000001"), Child::Foreign);
        }
    }

    #[test]
    fn the_order_survives_the_wrap() {
        let order = [i32::MAX - 1, i32::MAX, i32::MIN, i32::MIN + 1].map(Sequence);
        for pair in order.windows(2) {
            assert!(pair[1].behind(pair[0]) > 0, "{pair:?}");
            assert!(pair[0].behind(pair[1]) < 0, "{pair:?}");
        }
    }

    proptest! {
        #[test]
        fn a_number_is_behind_those_that_were_given_out_shortly_before(
            first: i32,
            distance in 1..i32::MAX,
        ) {
            let second = Sequence(first.wrapping_add(distance));
            prop_assert_eq!(second.behind(Sequence(first)), distance);
            prop_assert_eq!(Sequence(first).behind(second), -distance);
        }

        #[test]
        fn what_a_server_appends_is_read_back(number: i32) {
            for layout in [CURATOR, KAZOO] {
                let name = format!("{}{number:010}", layout.lock().prefix(id()));
                prop_assert_eq!(layout.lock().read(&name), Child::Rival(Sequence(number)));
            }
        }

        #[test]
        fn any_name_can_be_read(name: String) {
            for layout in [CURATOR, KAZOO] {
                let _ = layout.lock().read(&name);
            }
        }
    }
}
