//! Apache ZooKeeper's server.

use std::env;
use std::path::Path;
use std::process::Command;

use crate::process::{Program, Settings, lines};

/// Where Debian's package `zookeeper` puts the server; its manifest names what it needs, but for a
/// part of what TLS takes.
const DEBIAN: &str = "/usr/share/java/zookeeper.jar:/usr/share/java/netty-codec.jar:/usr/share/java/netty-resolver.jar";

/// Keys that Apache ZooKeeper reads as properties of the JVM, under these very names.
const PROPERTIES: [&str; 2] = ["jute.maxbuffer", "readonlymode.enabled"];

/// How to run Apache ZooKeeper.
#[derive(Debug, Clone)]
pub struct Apache {
    classpath: String,
}

impl Apache {
    /// The server in `QUORATE_APACHE_CLASSPATH`, without it Debian's.
    pub fn from_env() -> Self {
        Self::new(env::var("QUORATE_APACHE_CLASSPATH").unwrap_or_else(|_| DEBIAN.to_owned()))
    }

    /// Debian's server, version 3.8.0 in Debian 12.
    pub fn debian() -> Self {
        Self::new(DEBIAN)
    }

    /// The server in a Java class path, such as `/opt/zookeeper/lib/*`.
    pub fn new(classpath: impl Into<String>) -> Self {
        Apache {
            classpath: classpath.into(),
        }
    }

    fn is_property(key: &str) -> bool {
        PROPERTIES.contains(&key) || key.starts_with("znode.container.") || key.starts_with("java.")
    }
}

impl Program for Apache {
    fn name(&self) -> String {
        format!("Apache ZooKeeper ({})", self.classpath)
    }

    fn zoo_cfg(&self, settings: &Settings) -> String {
        lines(settings.iter().filter(|(key, _)| !Self::is_property(key)))
    }

    fn command(&self, zoo_cfg: &Path, settings: &Settings) -> Command {
        let mut java = Command::new("java");
        // One thread collects garbage: servers share two cores with the test.
        java.args(["-XX:+UseSerialGC", "-Xshare:auto", "-Xmx1g"]);
        for (key, value) in settings.iter().filter(|(key, _)| Self::is_property(key)) {
            java.arg(format!("-D{key}={value}"));
        }
        java.args(["-cp", &self.classpath])
            .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
            .arg(zoo_cfg);
        java
    }
}
