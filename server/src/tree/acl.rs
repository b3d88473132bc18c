//! Access control lists of the tree: each list is stored once, however many znodes share it.

use std::borrow::Cow;
use std::net::IpAddr;

use hashbrown::HashMap;
use quorate_proto::jute::Encode;
use quorate_proto::{Acl, Id, Perms};

/// Number of a list in the tree's table of lists. Numbers are never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AclId(u32);

impl AclId {
    /// Everything for everybody; snapshots name it -1.
    pub const OPEN: AclId = AclId(0);

    /// The key that stands for the list in a snapshot.
    pub fn snapshot_key(self) -> i64 {
        if self == AclId::OPEN {
            -1
        } else {
            i64::from(self.0)
        }
    }
}

/// One list, as it is checked and as it is sent.
#[derive(Debug)]
pub struct AclList {
    entries: Vec<Acl<'static>>,
    encoded: Box<[u8]>,
    users: usize,
}

impl AclList {
    /// The entries in stored order.
    pub fn entries(&self) -> &[Acl<'static>] {
        &self.entries
    }

    /// The entries as a vector of records.
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// May somebody who holds `ids` do any of `wanted`?
    pub fn permits(&self, wanted: Perms, ids: &[Id<'_>]) -> bool {
        permits(&self.entries, wanted, ids)
    }
}

/// May somebody who holds `ids` do any of `wanted` where `entries` rule (spec: client protocol,
/// section 11.2)? A list without entries is open.
pub fn permits(entries: &[Acl<'_>], wanted: Perms, ids: &[Id<'_>]) -> bool {
    entries.is_empty()
        || ids.iter().any(|id| id.scheme == "super")
        || entries.iter().any(|entry| {
            entry.perms.intersects(wanted)
                && (is_world(&entry.id) || ids.iter().any(|id| matches(&entry.id, id)))
        })
}

fn is_world(id: &Id<'_>) -> bool {
    id.scheme == "world" && id.id == "anyone"
}

fn matches(granted: &Id<'_>, held: &Id<'_>) -> bool {
    granted.scheme == held.scheme
        && match &*granted.scheme {
            "ip" => IpRange::parse(&granted.id)
                .zip(held.id.parse().ok())
                .is_some_and(|(range, address)| range.contains(address)),
            _ => granted.id == held.id,
        }
}

/// What an ACL of scheme `ip` names: an address, or those that share its first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpRange {
    address: IpAddr,
    bits: u8,
}

impl IpRange {
    /// Reads `ADDRESS` or `ADDRESS/BITS`.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Some(most), |bits| bits.parse().ok())?;
        (bits <= most).then_some(IpRange { address, bits })
    }

    /// Is `address` of the same family, with the same first bits?
    pub fn contains(&self, address: IpAddr) -> bool {
        let differing = match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            _ => return false,
        };
        differing >= u32::from(self.bits)
    }
}

/// Every list that some znode uses.
#[derive(Debug)]
pub(crate) struct AclTable {
    open: AclList,
    lists: HashMap<AclId, AclList>,
    ids: HashMap<Box<[u8]>, AclId>,
    last: u32,
    scratch: Vec<u8>,
}

impl AclTable {
    pub(crate) fn new() -> Self {
        let entries = vec![Acl::world(Perms::ALL)];
        let encoded = Encode::to_vec(&entries).into();
        AclTable {
            open: AclList {
                entries,
                encoded,
                users: 0,
            },
            ids: HashMap::new(),
            lists: HashMap::new(),
            last: 0,
            scratch: Vec::new(),
        }
    }

    /// Everything for everybody.
    pub(crate) fn open(&self) -> &AclList {
        &self.open
    }

    pub(crate) fn get(&self, id: AclId) -> Option<&AclList> {
        if id == AclId::OPEN {
            Some(&self.open)
        } else {
            self.lists.get(&id)
        }
    }

    /// The number of a list, which gets one more user.
    pub(crate) fn acquire(&mut self, acl: Option<&[Acl<'_>]>) -> AclId {
        let Some(acl) = acl.filter(|acl| !acl.is_empty() && !is_open(acl)) else {
            return AclId::OPEN;
        };
        self.scratch.clear();
        encode_list(acl, &mut self.scratch);
        let id = match self.ids.get(&self.scratch[..]) {
            Some(id) => *id,
            None => self.add(acl),
        };
        if let Some(list) = self.lists.get_mut(&id) {
            list.users += 1;
        }
        id
    }

    fn add(&mut self, acl: &[Acl<'_>]) -> AclId {
        let id = self.free_number();
        let encoded: Box<[u8]> = self.scratch.as_slice().into();
        let entries = acl.iter().map(|entry| entry.clone().into_owned()).collect();
        self.ids.insert(encoded.clone(), id);
        self.lists.insert(
            id,
            AclList {
                entries,
                encoded,
                users: 0,
            },
        );
        id
    }

    /// Numbers are used again only once all of them have been; 0 is that of the open list.
    fn free_number(&mut self) -> AclId {
        loop {
            self.last = self.last.wrapping_add(1);
            let id = AclId(self.last);
            if id != AclId::OPEN && !self.lists.contains_key(&id) {
                return id;
            }
        }
    }

    /// Gives up one use; the last user takes the list along.
    pub(crate) fn release(&mut self, id: AclId) {
        if id == AclId::OPEN {
            return;
        }
        let Some(list) = self.lists.get_mut(&id) else {
            return;
        };
        list.users = list.users.saturating_sub(1);
        if list.users == 0
            && let Some(list) = self.lists.remove(&id)
        {
            self.ids.remove(&list.encoded);
        }
    }

    /// Counts one more use of a list that is in the table.
    pub(crate) fn retain(&mut self, id: AclId) {
        if let Some(list) = self.lists.get_mut(&id) {
            list.users += 1;
        }
    }

    /// The lists that snapshots hold: all but the open one.
    pub(crate) fn stored(&self) -> impl ExactSizeIterator<Item = (AclId, &AclList)> {
        self.lists.iter().map(|(id, list)| (*id, list))
    }
}

fn is_open(acl: &[Acl<'_>]) -> bool {
    matches!(acl, [entry] if entry.perms == Perms::ALL && is_world(&entry.id))
}

fn encode_list(acl: &[Acl<'_>], out: &mut Vec<u8>) {
    i32::try_from(acl.len()).unwrap_or(i32::MAX).encode(out);
    for entry in acl {
        entry.encode(out);
    }
}

/// The form in which `getACL` shows a list to somebody without ADMIN: no digest is given away.
pub fn masked(entries: &[Acl<'static>]) -> Vec<Acl<'static>> {
    let mask = |entry: &Acl<'static>| match (&*entry.id.scheme, entry.id.id.split_once(':')) {
        ("digest", Some((user, _))) => Acl {
            perms: entry.perms,
            id: Id::new("digest", Cow::Owned(format!("{user}:x"))),
        },
        _ => entry.clone(),
    };
    entries.iter().map(mask).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_shared_and_go_with_their_last_user() {
        let mut table = AclTable::new();
        let read = [Acl::world(Perms::READ)];
        assert_eq!(table.acquire(Some(&[Acl::world(Perms::ALL)])), AclId::OPEN);
        assert_eq!(table.acquire(None), AclId::OPEN);
        let first = table.acquire(Some(&read));
        assert_eq!(table.acquire(Some(&read)), first);
        table.release(first);
        assert!(table.get(first).is_some());
        table.release(first);
        assert!(table.get(first).is_none());
        assert_ne!(
            table.acquire(Some(&read)),
            first,
            "a number is never used again"
        );
    }

    #[test]
    fn the_first_entry_that_fits_permits() {
        let acl = [
            Acl::world(Perms::READ),
            Acl::new(Perms::ALL, "digest", "u:h"),
        ];
        let user = [Id::new("digest", "u:h")];
        assert!(permits(&acl, Perms::READ, &[]));
        assert!(!permits(&acl, Perms::WRITE, &[]));
        assert!(permits(&acl, Perms::WRITE, &user));
        assert!(permits(&acl, Perms::WRITE, &[Id::new("super", "")]));
        assert!(!permits(&acl, Perms::WRITE, &[Id::new("sasl", "u:h")]));
        assert!(permits(&[], Perms::ADMIN, &[]));
    }

    #[test]
    fn addresses_match_by_their_first_bits() {
        let permits = |range: &str, held: &'static str| {
            permits(
                &[Acl::new(Perms::READ, "ip", range.to_owned())],
                Perms::READ,
                &[Id::new("ip", held)],
            )
        };
        assert!(permits("10.1.2.3", "10.1.2.3"));
        assert!(!permits("10.1.2.3", "10.1.2.4"));
        assert!(permits("10.1.0.0/16", "10.1.200.4"));
        assert!(!permits("10.1.0.0/16", "10.2.0.1"));
        assert!(permits("0.0.0.0/0", "10.2.0.1"));
        assert!(permits("fe80::/10", "fe80::1"));
        assert!(!permits("0.0.0.0/0", "::1"));
        assert_eq!(IpRange::parse("10.0.0.0/33"), None);
        assert_eq!(IpRange::parse("10.0.0"), None);
    }
}
