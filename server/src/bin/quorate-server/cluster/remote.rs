//! Commands on other hosts.

use std::{
    io::{self, Write},
    process::{Command, Output, Stdio},
};

use super::failure;

/// A directory on another host, and the way there.
#[derive(Debug)]
pub(super) struct Remote {
    ssh: String,
    /// As ssh knows it.
    pub(super) host: String,
    /// Seen from the root.
    pub(super) dir: String,
}

impl Remote {
    pub(super) fn new(ssh: &str, host: &str, dir: &str) -> Remote {
        Remote {
            ssh: ssh.to_owned(),
            host: host.to_owned(),
            dir: dir.to_owned(),
        }
    }

    /// Makes the directory `dir`, which may be relative to where ssh begins, and finds out its path.
    pub(super) fn found(ssh: &str, host: &str, dir: &str) -> io::Result<Remote> {
        let mut remote = Remote::new(ssh, host, dir);
        let dir = quote(dir);
        let said = remote.run(&format!("mkdir -p {dir} && cd {dir} && pwd"), "")?;
        remote.dir = said.trim_end_matches(['\r', '\n']).to_owned();
        match remote.dir.starts_with('/') {
            true => Ok(remote),
            false => Err(failure(format!("{host}: `pwd` answered {:?}", remote.dir))),
        }
    }

    /// A command of the shell there.
    pub(super) fn command(&self, line: &str) -> Command {
        let mut words = self.ssh.split_whitespace();
        let mut command = Command::new(words.next().unwrap_or("ssh"));
        command.args(words).arg(&self.host).arg(line);
        command
    }

    /// Runs a command to its end with this on its standard input, and answers what it prints.
    pub(super) fn run(&self, line: &str, input: &str) -> io::Result<String> {
        let about = |what: String| failure(format!("{} {}: {what}", self.ssh, self.host));
        let mut child = self
            .command(line)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| about(format!("{error}; see --ssh")))?;
        if let Some(mut stdin) = child.stdin.take()
            && let Err(error) = stdin.write_all(input.as_bytes())
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            return Err(about(error.to_string()));
        }
        let Output {
            status,
            stdout,
            stderr,
        } = child.wait_with_output()?;
        match status.success() {
            true => Ok(String::from_utf8_lossy(&stdout).into_owned()),
            false => Err(about(format!(
                "`{line}` ended with {status}: {}",
                String::from_utf8_lossy(&stderr).trim()
            ))),
        }
    }
}

/// `text` as one word of a shell.
pub(super) fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=:,@%+".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_pass_a_shell_unchanged() {
        for word in ["/srv/zk-1", "two words", "it's", "", "$HOME", "a;b"] {
            let said = Command::new("sh")
                .arg("-c")
                .arg(format!("printf %s {}", quote(word)))
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&said.stdout), word);
        }
    }

    #[test]
    fn what_fails_there_is_told() {
        // `env -u HOST COMMAND` runs a command without more ado.
        let remote = Remote::new("env -u", "NONE", "/");
        assert!(remote.run("pwd", "").unwrap().starts_with('/'));
        let error = remote.run("false", "").unwrap_err().to_string();
        assert!(error.contains("env -u NONE: `false` ended with"), "{error}");
        let error = Remote::new("/none/ssh", "h", "/")
            .run("true", "")
            .unwrap_err();
        assert!(error.to_string().contains("see --ssh"), "{error}");
    }
}
