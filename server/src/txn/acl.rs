//! The ACL of a new znode: checked, and with what refers to the requester filled in.

use std::borrow::Cow;

use quorate_proto::{Acl, ErrorCode, Id};

use crate::tree::IpRange;

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
    for (i, entry) in acl.iter().enumerate() {
        if acl[..i].contains(entry) {
            continue;
        }
        if entry.id.scheme == "auth" {
            let before = resolved.len();
            let proved = ids.iter().filter(|id| id.scheme == "digest");
            resolved.extend(proved.map(|id| Acl {
                perms: entry.perms,
                id: id.clone(),
            }));
            if resolved.len() == before {
                return Err(ErrorCode::INVALID_ACL);
            }
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
