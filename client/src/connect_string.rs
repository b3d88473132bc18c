//! Connect strings: `host:port,host:port/chroot`.

use std::fmt;

use quorate_proto::path;

use crate::chroot::Chroot;
use crate::error::Error;

/// The port of servers that do not say another.
const DEFAULT_PORT: u16 = 2181;

/// A server as the user names it; its name is resolved at every attempt to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Takes a connect string apart.
pub(crate) fn parse(input: &str) -> Result<(Vec<Server>, Chroot), Error> {
    let invalid = |reason: String| Error::InvalidConnectString {
        input: input.to_owned(),
        reason,
    };
    let (list, chroot) = match input.find('/') {
        Some(at) => (&input[..at], &input[at..]),
        None => (input, "/"),
    };
    path::validate(chroot).map_err(|e| invalid(format!("the chroot is not a path: {e}")))?;
    let servers = list
        .split(',')
        .map(str::trim)
        .filter(|server| !server.is_empty())
        .map(|server| parse_server(server).map_err(&invalid))
        .collect::<Result<Vec<_>, _>>()?;
    if servers.is_empty() {
        return Err(invalid(
            "it names no server; expected host:port[,host:port…][/chroot]".into(),
        ));
    }
    Ok((servers, Chroot::new(chroot)))
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`, or an IPv6 address alone.
fn parse_server(text: &str) -> Result<Server, String> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest
            .split_once(']')
            .ok_or_else(|| format!("{text:?} lacks the closing bracket"))?;
        match rest {
            "" => (host, None),
            _ => (
                host,
                Some(
                    rest.strip_prefix(':')
                        .ok_or_else(|| format!("{text:?} has text behind the bracket"))?,
                ),
            ),
        }
    } else {
        match text.split_once(':') {
            Some((_, rest)) if rest.contains(':') => (text, None),
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    if host.is_empty() {
        return Err(format!("{text:?} has no host"));
    }
    let port =
        match port {
            None => DEFAULT_PORT,
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(|| {
                format!("{text:?} has no port between 1 and 65535 behind the colon")
            })?,
        };
    Ok(Server {
        host: host.to_owned(),
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(input: &str) -> (String, String) {
        let (servers, chroot) = parse(input).unwrap();
        let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
        (servers.join(" "), chroot.as_str().to_owned())
    }

    #[test]
    fn understands_every_form() {
        for (input, servers, chroot) in [
            ("a", "a:2181", "/"),
            ("a:1/", "a:1", "/"),
            ("a:1 , b:2,c/x/y", "a:1 b:2 c:2181", "/x/y"),
            ("[::1]:7,[fe80::2]/r", "[::1]:7 [fe80::2]:2181", "/r"),
            ("::1", "[::1]:2181", "/"),
            ("127.0.0.1:9", "127.0.0.1:9", "/"),
        ] {
            assert_eq!(shown(input), (servers.into(), chroot.into()), "{input}");
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (input, reason) in [
            ("", "names no server"),
            (",/a", "names no server"),
            ("/a", "names no server"),
            (":2181", "no host"),
            ("a:", "no port"),
            ("a:0", "no port"),
            ("a:65536", "no port"),
            ("a:b", "no port"),
            ("[::1", "closing bracket"),
            ("[::1]x", "behind the bracket"),
            ("a/b/", "must not end with '/'"),
            ("a//b", "empty component"),
        ] {
            let error = parse(input).unwrap_err().to_string();
            assert!(error.contains(reason), "{input}: {error}");
        }
    }
}
