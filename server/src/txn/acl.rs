//! The ACL of a new znode: checked, and with what refers to the requester filled in.

use std::borrow::Cow;

use hashbrown::HashSet;
use quorate_proto::{Acl, ErrorCode, Id};

use crate::tree::IpRange;

/// Bytes of identities in one list. Entries of the scheme `auth`, which are small, stand for all
/// identities of the requester, which need not be.
pub(super) const SIZE_LIMIT: usize = 1 << 20;

/// The entries as they are stored: duplicates dropped, `auth` replaced by one entry for each
/// identity that the requester has proved.
pub(super) fn resolve<'a>(
    acl: Option<&'a [Acl<'a>]>,
    ids: &[Id<'static>],
    digest_scheme: bool,
) -> Result<Cow<'a, [Acl<'a>]>, ErrorCode> {
    let acl = acl
        .filter(|acl| !acl.is_empty())
        .ok_or(ErrorCode::INVALID_ACL)?;
    if let [entry] = acl
        && is_world(&entry.id)
    {
        return Ok(Cow::Borrowed(acl));
    }
    let mut resolved: Vec<Acl<'a>> = Vec::with_capacity(acl.len());
    let proved = || ids.iter().filter(|id| id.scheme == "digest");
    let proved_size: usize = proved().map(|id| size_of::<Acl<'_>>() + id.id.len()).sum();
    let (mut seen, mut expanded) = (HashSet::new(), 0);
    for entry in acl {
        if acl.len() > 1 && !seen.insert(entry) {
            continue;
        }
        if entry.id.scheme == "auth" {
            expanded += proved_size;
            if proved_size == 0 || expanded > SIZE_LIMIT {
                return Err(ErrorCode::INVALID_ACL);
            }
            resolved.extend(proved().map(|id| Acl {
                perms: entry.perms,
                id: id.clone(),
            }));
        } else if is_valid(&entry.id, digest_scheme) {
            resolved.push(entry.clone());
        } else {
            return Err(ErrorCode::INVALID_ACL);
        }
    }
    Ok(Cow::Owned(resolved))
}

fn is_world(id: &Id<'_>) -> bool {
    id.scheme == "world" && id.id == "anyone"
}

fn is_valid(id: &Id<'_>, digest_scheme: bool) -> bool {
    match &*id.scheme {
        "world" => id.id == "anyone",
        "ip" => IpRange::parse(&id.id).is_some(),
        "digest" => digest_scheme && id.id.trim_end_matches(':').split(':').count() == 2,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_proto::Perms;

    fn resolved(acl: &[Acl<'_>], ids: &[Id<'static>]) -> Result<Vec<String>, ErrorCode> {
        resolve(Some(acl), ids, true).map(|acl| acl.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn auth_stands_for_what_the_requester_has_proved() {
        let ids = [
            Id::new("ip", "::1"),
            Id::new("digest", "a:1"),
            Id::new("digest", "b:2"),
        ];
        let acl = [Acl::new(Perms::ALL, "auth", "x"), Acl::world(Perms::READ)];
        assert_eq!(
            resolved(&acl, &ids),
            Ok(vec![
                "digest:a:1:cdrwa".into(),
                "digest:b:2:cdrwa".into(),
                "world:anyone:r".into()
            ])
        );
        assert_eq!(resolved(&acl, &ids[..1]), Err(ErrorCode::INVALID_ACL));
    }

    #[test]
    fn long_lists_take_no_longer_than_they_are() {
        let acl: Vec<_> = (0..60_000).map(|n| Acl::world(Perms(n))).collect();
        let begun = std::time::Instant::now();
        let resolved = resolve(Some(&acl), &[], true).unwrap();
        assert_eq!(resolved.len(), acl.len());
        assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
    }

    #[test]
    fn short_lists_do_not_stand_for_endless_ones() {
        let ids: Vec<_> = (0..1000)
            .map(|n| Id::new("digest", format!("user{n}:hash")))
            .collect();
        let auth = |n| Acl::new(Perms(n), "auth", "");
        assert_eq!(resolved(&[auth(1)], &ids).unwrap().len(), 1000);
        let acl: Vec<_> = (0..60_000).map(auth).collect();
        assert_eq!(resolved(&acl, &ids), Err(ErrorCode::INVALID_ACL));
    }

    #[test]
    fn duplicates_are_dropped_and_nonsense_is_refused() {
        let read = Acl::world(Perms::READ);
        assert_eq!(
            resolved(&[read.clone(), read.clone()], &[]),
            Ok(vec!["world:anyone:r".into()])
        );
        assert_eq!(resolve(None, &[], true), Err(ErrorCode::INVALID_ACL));
        for (scheme, id) in [
            ("world", "someone"),
            ("super", "x"),
            ("digest", "user"),
            ("digest", "user:"),
            ("digest", "a:b:c"),
            ("ip", "1.2.3"),
            ("unheard", "of"),
        ] {
            let acl = [Acl::new(Perms::ALL, scheme, id)];
            assert_eq!(
                resolved(&acl, &[]),
                Err(ErrorCode::INVALID_ACL),
                "{scheme}:{id}"
            );
        }
    }
}
