//! SASL with DIGEST-MD5 (RFC 2831): both sides prove that they know a password without sending it
//! (spec: client protocol, section 13).

use std::fmt;

use md5::{Digest, Md5};
use quorate_proto::jute::{Decode, Encode};
use quorate_proto::{ErrorCode, OpCode, ReplyHeader, SaslToken};

use crate::connect_string::Server;
use crate::dial::Refused;
use crate::error::Error;
use crate::request;
use crate::stream::Stream;
use crate::wire::{Wire, invalid};

/// ZooKeeper's servers have one name in SASL, whatever their host, and a realm of that name.
const REALM: &str = "zk-sasl-md5";
const DIGEST_URI: &str = "zookeeper/zk-sasl-md5";
/// The nonce of the server is used once.
const NONCE_COUNT: &str = "00000001";

/// A user and the password.
#[derive(Clone)]
pub(crate) struct DigestMd5 {
    pub(crate) user: String,
    pub(crate) password: String,
}

/// Says the user and keeps the secret.
impl fmt::Debug for DigestMd5 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DigestMd5")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl DigestMd5 {
    /// Authenticates a new connection, on which nothing else has been sent yet.
    pub(crate) async fn authenticate(
        &self,
        server: &Server,
        wire: &mut Wire<Stream>,
    ) -> Result<(), Refused> {
        let denied = |reason| {
            Refused::Denied(Error::SaslFailed {
                server: server.to_string(),
                user: self.user.clone(),
                reason,
            })
        };
        // The server speaks first in this mechanism, so it is sent an empty token.
        let challenge = call(wire, 1, &[]).await?.map_err(denied)?;
        if challenge.is_empty() {
            return Err(denied("the server has no users of SASL".into()));
        }
        let challenge = Challenge::parse(&challenge).map_err(denied)?;
        let cnonce = cnonce().map_err(std::io::Error::other)?;
        let exchange = Exchange {
            user: &self.user,
            password: &self.password,
            realm: &challenge.realm,
            nonce: &challenge.nonce,
            cnonce: &cnonce,
            uri: DIGEST_URI,
        };
        let response = exchange.response();
        let verdict = call(wire, 2, response.as_bytes()).await?.map_err(denied)?;
        let proof = directives(&verdict).map_err(denied)?;
        let expected = exchange.digest("");
        if proof
            .iter()
            .any(|(name, value)| name == "rspauth" && *value == expected)
        {
            return Ok(());
        }
        Err(denied(
            "the server does not prove that it knows the password".into(),
        ))
    }
}

/// Sends a token and waits for the server's, or for why it wants no more.
async fn call(
    wire: &mut Wire<Stream>,
    xid: i32,
    token: &[u8],
) -> std::io::Result<Result<Vec<u8>, String>> {
    request::write(wire.output(), xid, OpCode::Sasl, |out| {
        SaslToken { token: Some(token) }.encode(out);
    });
    let reply = wire.exchange().await?;
    let header = ReplyHeader::from_slice(&reply).map_err(invalid)?;
    if header.xid != xid {
        let error = format!("unexpected reply with xid {} to SASL", header.xid);
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, error));
    }
    Ok(match header.err {
        ErrorCode::OK => {
            let body = &reply[ReplyHeader::MIN_SIZE..];
            let answer = SaslToken::from_slice(body).map_err(invalid)?;
            // A server that lets clients in whatever their password goes on without a word.
            Ok(answer.token.unwrap_or_default().to_vec())
        }
        ErrorCode::AUTH_FAILED | ErrorCode::SESSION_CLOSED_REQUIRE_SASL_AUTH => {
            Err("the user or the password is not right, or the server has no users".into())
        }
        code => Err(format!("the server does not take DIGEST-MD5: {code}")),
    })
}

/// Ours, which makes every exchange another one.
fn cnonce() -> Result<String, getrandom::Error> {
    let mut random = [0; 16];
    getrandom::fill(&mut random)?;
    Ok(hex(&random))
}

/// What the server asks.
struct Challenge {
    realm: String,
    nonce: String,
}

impl Challenge {
    fn parse(text: &[u8]) -> Result<Self, String> {
        let directives = directives(text)?;
        let find = |wanted: &str| {
            let found = directives.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.as_str())
        };
        if let Some(algorithm) = find("algorithm").filter(|name| *name != "md5-sess") {
            return Err(format!(
                "the server wants the algorithm {algorithm:?}, not md5-sess"
            ));
        }
        let has_auth = |offer: &str| offer.split(',').any(|qop| qop.trim() == "auth");
        if let Some(offer) = find("qop").filter(|offer| !has_auth(offer)) {
            return Err(format!(
                "the server wants the protection {offer:?}; use TLS instead"
            ));
        }
        let nonce = find("nonce").ok_or("the server's challenge has no nonce")?;
        Ok(Challenge {
            realm: find("realm").unwrap_or(REALM).to_owned(),
            nonce: nonce.to_owned(),
        })
    }
}

/// Takes `name=value,name="value"` apart.
fn directives(text: &[u8]) -> Result<Vec<(String, String)>, String> {
    let malformed = || String::from("the server's message is not one of DIGEST-MD5");
    let mut rest = std::str::from_utf8(text).map_err(|_| malformed())?;
    let mut found = Vec::new();
    loop {
        rest = rest.trim_start_matches([',', ' ', '\t', '\r', '\n']);
        if rest.is_empty() {
            return Ok(found);
        }
        let (name, value) = rest.split_once('=').ok_or_else(malformed)?;
        let value = value.trim_start();
        let (value, behind) = match value.strip_prefix('"') {
            Some(quoted) => unquote(quoted).ok_or_else(malformed)?,
            None => {
                let end = value.find(',').unwrap_or(value.len());
                (value[..end].trim_end().to_owned(), &value[end..])
            }
        };
        found.push((name.trim().to_ascii_lowercase(), value));
        rest = behind;
    }
}

/// The value up to the closing quote, and what follows.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.chars();
    loop {
        match chars.next()? {
            '"' => return Some((value, chars.as_str())),
            '\\' => value.push(chars.next()?),
            other => value.push(other),
        }
    }
}

fn quote(value: &str) -> String {
    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{escaped}\"")
}

/// What both sides hash.
struct Exchange<'a> {
    user: &'a str,
    password: &'a str,
    realm: &'a str,
    nonce: &'a str,
    cnonce: &'a str,
    uri: &'a str,
}

impl Exchange<'_> {
    /// The answer to the challenge.
    fn response(&self) -> String {
        format!(
            "charset=utf-8,username={},realm={},nonce={},nc={NONCE_COUNT},cnonce={},\
             digest-uri={},maxbuf=65536,response={},qop=auth",
            quote(self.user),
            quote(self.realm),
            quote(self.nonce),
            quote(self.cnonce),
            quote(self.uri),
            self.digest("AUTHENTICATE"),
        )
    }

    /// The proof of the client for `AUTHENTICATE`, that of the server for nothing.
    fn digest(&self, method: &str) -> String {
        let secret = md5(&[
            &hashed(self.user),
            b":",
            &hashed(self.realm),
            b":",
            &hashed(self.password),
        ]);
        let (nonce, cnonce) = (self.nonce.as_bytes(), self.cnonce.as_bytes());
        let key = hex(&md5(&[&secret, b":", nonce, b":", cnonce]));
        let target = hex(&md5(&[method.as_bytes(), b":", self.uri.as_bytes()]));
        hex(&md5(&[
            key.as_bytes(),
            b":",
            nonce,
            format!(":{NONCE_COUNT}:").as_bytes(),
            cnonce,
            b":auth:",
            target.as_bytes(),
        ]))
    }
}

/// Text is hashed in ISO 8859-1 if that can express it, and in UTF-8 if not.
fn hashed(text: &str) -> Vec<u8> {
    let latin: Result<Vec<u8>, _> = text.chars().map(u8::try_from).collect();
    latin.unwrap_or_else(|_| text.as_bytes().to_vec())
}

fn md5(parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Md5::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

fn hex(bytes: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 2831, section 4.
    #[test]
    fn both_proofs_are_those_of_the_standard() {
        for (uri, nonce, cnonce, response, rspauth) in [
            (
                "imap/elwood.innosoft.com",
                "OA6MG9tEQGm2hh",
                "OA6MHXh6VqTrRk",
                "d388dad90d4bbd760a152321f2143af7",
                "ea40f60335c427b5527b84dbabcdfffd",
            ),
            (
                "acap/elwood.innosoft.com",
                "OA9BSXrbuRhWay",
                "OA9BSuZWMSpW8m",
                "6084c6db3fede7352c551284490fd0fc",
                "2f0b3d7c3c2e486600ef710726aa2eae",
            ),
        ] {
            let exchange = Exchange {
                user: "chris",
                password: "secret",
                realm: "elwood.innosoft.com",
                nonce,
                cnonce,
                uri,
            };
            assert_eq!(exchange.digest("AUTHENTICATE"), response);
            assert_eq!(exchange.digest(""), rspauth);
        }
    }

    #[test]
    fn a_challenge_is_understood_however_it_is_written() {
        for text in [
            r#"realm="r",nonce="n\"1,",charset=utf-8,algorithm=md5-sess"#,
            r#", algorithm=md5-sess ,nonce = "n\"1,", realm="r", realm="other",qop="auth-int, auth""#,
        ] {
            let challenge = Challenge::parse(text.as_bytes()).unwrap();
            assert_eq!(challenge.nonce, "n\"1,", "{text}");
            assert_eq!(challenge.realm, "r", "{text}");
        }
        assert_eq!(Challenge::parse(b"nonce=n").unwrap().realm, REALM);
    }

    #[test]
    fn what_is_no_challenge_is_refused() {
        for (text, reason) in [
            ("", "no nonce"),
            (",,", "no nonce"),
            ("realm", "not one of"),
            ("nonce=\"n", "not one of"),
            ("nonce=\"n\\", "not one of"),
            ("nonce=n,algorithm=md5", "\"md5\""),
            ("nonce=n,qop=auth-conf", "\"auth-conf\""),
        ] {
            let error = Challenge::parse(text.as_bytes()).err().unwrap();
            assert!(error.contains(reason), "{text}: {error}");
        }
        assert!(Challenge::parse(b"nonce=\xff").is_err());
    }

    #[test]
    fn names_are_quoted_and_hashed_in_the_narrowest_character_set() {
        assert_eq!(quote(r#"a"b\"#), r#""a\"b\\""#);
        assert_eq!(hashed("aé"), b"a\xe9");
        assert_eq!(hashed("a€"), "a€".as_bytes());
    }
}
