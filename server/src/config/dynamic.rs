//! The files in which a member keeps the configurations of its ensemble, so that it knows them
//! after a restart: `zoo.cfg.dynamic.VERSION` holds one that was committed, `zoo.cfg.dynamic.next`
//! one that was only proposed (spec: quorum protocol, section 9).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Config, Members, properties};
use crate::storage::StorageError;
use crate::storage::disk::{Access, Disk, RealDisk, directory};
use crate::zab::{Membership, Sid};

/// Keys that a dynamic configuration takes the place of.
const REPLACED: [&str; 2] = ["dynamicConfigFile", "peerType"];
/// Keys that an address for clients in the member's own line takes the place of.
const CLIENT_ADDRESS: [&str; 2] = ["clientPort", "clientPortAddress"];
/// A file beyond this size is none of these.
const LARGEST_FILE: u64 = 4 << 20;

/// Where a member keeps the configurations of its ensemble.
#[derive(Debug, Clone)]
pub struct DynamicFiles {
    disk: Arc<dyn Disk>,
    /// The member's own id.
    id: Sid,
    /// The names of all files begin with this one.
    base: PathBuf,
    /// Is that a configuration file, which names the one that was committed?
    named: bool,
}

impl DynamicFiles {
    /// For a member with these settings: beside the file that they came from, as Apache ZooKeeper
    /// keeps them, or in the data directory if they came from none.
    pub fn new(config: &Config) -> Self {
        let disk = Arc::new(RealDisk);
        let id = config.server_id();
        match &config.file {
            Some(file) => DynamicFiles::beside(disk, id, file),
            None => DynamicFiles::within(disk, id, &config.data_dir),
        }
    }

    /// Beside a configuration file. Its line `dynamicConfigFile` says which one was committed.
    pub fn beside(disk: Arc<dyn Disk>, id: Sid, file: impl Into<PathBuf>) -> Self {
        DynamicFiles {
            disk,
            id,
            base: file.into(),
            named: true,
        }
    }

    /// In a directory. The newest is the one that was committed.
    pub fn within(disk: Arc<dyn Disk>, id: Sid, dir: &Path) -> Self {
        DynamicFiles {
            disk,
            id,
            base: dir.join("zoo.cfg"),
            named: false,
        }
    }

    /// The configuration that was committed last, and a newer one that was only proposed, as far
    /// as this member knows; `configured` is the one in its settings, and `shown` the one that its
    /// history shows.
    ///
    /// A change of the members is proposed for as long as the history has it, and the file only
    /// tells that there is one: a change that is not in the history is over and forgotten for good,
    /// and a history that was put in the place of the member's own, from a backup or another
    /// ensemble, changes nobody's members.
    pub fn load(
        &self,
        configured: Membership,
        shown: Option<Membership>,
    ) -> Result<(Membership, Option<Membership>), StorageError> {
        let mut committed = configured;
        if !self.named
            && let Some(version) = self
                .newest()?
                .filter(|version| *version > committed.version)
            && let Some(stored) = self.read_membership(&self.committed(version))?
        {
            committed = Membership { version, ..stored };
        }
        let newer = |config: &Membership| config.version > committed.version;
        let kept = self.read_membership(&self.proposed())?.filter(newer);
        let proposed = kept.and_then(|kept| match kept.is_change() {
            true => shown.filter(newer),
            false => Some(kept),
        });
        if proposed.is_none() {
            self.forget_proposed()?;
        }
        Ok((committed, proposed))
    }

    /// Keeps a configuration that was proposed, durably.
    pub fn propose(&self, config: &Membership) -> Result<(), StorageError> {
        self.replace(&self.proposed(), &config.to_string())
    }

    /// Makes sure that [`load`](DynamicFiles::load) goes by what a tree shows, if that takes the
    /// place of the history, and by what the history shows until then.
    pub fn await_tree(&self, shown: &Membership) -> Result<(), StorageError> {
        let committed = self.newest()?.unwrap_or(0);
        let newer = |config: &Membership| config.version > committed;
        let kept = self.read_membership(&self.proposed())?.filter(newer);
        match kept.is_some_and(|kept| kept.is_change()) {
            false if newer(shown) => self.propose(shown),
            _ => Ok(()),
        }
    }

    /// Keeps a configuration that was committed, durably, and has the configuration file name it.
    /// One of version 0 was never agreed on: it is in the settings already.
    pub fn activate(&self, config: &Membership) -> Result<(), StorageError> {
        if config.version == 0 {
            return Ok(());
        }
        let path = self.committed(config.version);
        self.replace(&path, &config.members.to_string())?;
        if self.named {
            self.point_at(&path, &config.members)?;
        }
        let kept = self.read_membership(&self.proposed())?;
        match kept.is_some_and(|kept| kept.version > config.version) {
            true => Ok(()),
            false => self.forget_proposed(),
        }
    }

    fn forget_proposed(&self) -> Result<(), StorageError> {
        match self.disk.remove(&self.proposed()) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                Err(StorageError::io("remove", &self.proposed(), err))
            }
            _ => Ok(()),
        }
    }

    fn proposed(&self) -> PathBuf {
        self.with_suffix(".dynamic.next")
    }

    fn committed(&self, version: u64) -> PathBuf {
        self.with_suffix(&format!(".dynamic.{version:x}"))
    }

    fn with_suffix(&self, suffix: &str) -> PathBuf {
        let mut path = self.base.clone().into_os_string();
        path.push(suffix);
        path.into()
    }

    /// The newest version that there is a file of.
    fn newest(&self) -> Result<Option<u64>, StorageError> {
        let dir = parent(&self.base);
        let entries = match self.disk.list(dir) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            entries => entries.map_err(|err| StorageError::io("list", dir, err))?,
        };
        let prefix = self.with_suffix(".dynamic.");
        let prefix = prefix.file_name().unwrap_or_default().to_string_lossy();
        let versions = entries.iter().filter_map(|entry| {
            let hex = entry.name.strip_prefix(&*prefix)?;
            u64::from_str_radix(hex, 16).ok()
        });
        Ok(versions.max())
    }

    /// Rewrites the configuration file. A copy of one that holds the members itself is kept.
    fn point_at(&self, dynamic: &Path, members: &Members) -> Result<(), StorageError> {
        let Some(text) = self.read(&self.base)? else {
            let missing = io::ErrorKind::NotFound.into();
            return Err(StorageError::io("open", &self.base, missing));
        };
        let own = members.servers.get(&self.id);
        let has_client = own.is_some_and(|own| own.client.is_some());
        let unwanted = |key: &str| {
            REPLACED.contains(&key)
                || Members::owns(key)
                || has_client && CLIENT_ADDRESS.contains(&key)
        };
        let malformed = |what| self.malformed(&self.base, what);
        let dynamic = dynamic
            .to_str()
            .ok_or_else(|| malformed("its path is not UTF-8; rename it".to_owned()))?;
        let without = |unwanted: &dyn Fn(&str) -> bool| {
            properties::without(&text, unwanted)
                .map_err(|err| malformed(format!("line {}: {}", err.line, err.what)))
        };
        if without(&Members::owns)? != without(&|_| false)? {
            self.replace(&self.with_suffix(".bak"), &text)?;
        }
        let mut rewritten = without(&unwanted)?;
        if !rewritten.is_empty() && !rewritten.ends_with('\n') {
            rewritten.push('\n');
        }
        rewritten.push_str("dynamicConfigFile=");
        rewritten.push_str(&dynamic.replace('\\', "\\\\"));
        rewritten.push('\n');
        self.replace(&self.base, &rewritten)
    }

    fn read_membership(&self, path: &Path) -> Result<Option<Membership>, StorageError> {
        let Some(text) = self.read(path)? else {
            return Ok(None);
        };
        let config = text.parse();
        config
            .map(Some)
            .map_err(|what| self.malformed(path, format!("{what}; mend the file or remove it")))
    }

    fn malformed(&self, path: &Path, reason: String) -> StorageError {
        StorageError::Configuration {
            path: path.to_owned(),
            reason,
        }
    }

    /// The content of a file that may be missing.
    fn read(&self, path: &Path) -> Result<Option<String>, StorageError> {
        let content = || -> io::Result<Option<Vec<u8>>> {
            let file = match self.disk.open(path, Access::Read) {
                Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
                file => file?,
            };
            let size = file.size()?;
            if size > LARGEST_FILE {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            let mut content = vec![0; size as usize];
            let read = file.read_at(&mut content, 0)?;
            content.truncate(read);
            Ok(Some(content))
        };
        let content = content().map_err(|err| StorageError::io("read", path, err))?;
        Ok(content.map(properties::decode))
    }

    /// Writes a file in one step: after a crash it has its old content or `text`, and `text` once
    /// this returns.
    fn replace(&self, path: &Path, text: &str) -> Result<(), StorageError> {
        let mut temporary = path.to_owned().into_os_string();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        let write = || -> io::Result<()> {
            match self.disk.remove(&temporary) {
                Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
                _ => {}
            }
            let file = self.disk.open(&temporary, Access::Create)?;
            file.write_at(text.as_bytes(), 0)?;
            file.sync()?;
            self.disk.rename(&temporary, path)?;
            self.disk.sync_dir(parent(path))
        };
        write().map_err(|err| StorageError::io("write", path, err))
    }
}

/// The directory that a path names a file in: that of a bare name is the current one.
fn parent(path: &Path) -> &Path {
    match directory(path) {
        dir if dir.as_os_str().is_empty() => Path::new("."),
        dir => dir,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;
    use crate::storage::mem_disk::MemDisk;

    const FIXTURE: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/apache-3.9.5/ensemble-member"
    );

    fn fixture(name: &str) -> String {
        std::fs::read_to_string(format!("{FIXTURE}/{name}")).unwrap()
    }

    fn membership(version: u64, ids: std::ops::RangeInclusive<u16>) -> Membership {
        let lines = ids.map(|id| {
            format!("server.{id}=127.0.0.1:252{id:02}:253{id:02}:participant;127.0.0.1:251{id:02}")
        });
        let lines: Vec<_> = lines.chain([format!("version={version:x}")]).collect();
        lines.join("\n").parse().unwrap()
    }

    /// A disk in memory with the configuration of the fixture.
    fn disk() -> MemDisk {
        let disk = MemDisk::new();
        for name in ["zoo.cfg", "zoo.cfg.dynamic.200000122"] {
            let content = fixture(&format!("conf/{name}"));
            disk.put(Path::new("conf").join(name), content.as_bytes());
        }
        disk
    }

    fn files(disk: &MemDisk) -> DynamicFiles {
        DynamicFiles::beside(Arc::new(disk.clone()), 2, "conf/zoo.cfg")
    }

    fn text(disk: &MemDisk, name: &str) -> Option<String> {
        let content = disk.get(Path::new("conf").join(name))?;
        Some(String::from_utf8(content).unwrap())
    }

    #[test]
    fn files_are_what_apache_writes() {
        let disk = disk();
        let before = text(&disk, "zoo.cfg").unwrap();
        let config = membership(0x2_0000_0122, 1..=3);
        files(&disk).propose(&config).unwrap();
        let next = text(&disk, "zoo.cfg.dynamic.next").unwrap();
        assert_eq!(next, config.to_string());
        assert!(next.ends_with("\nversion=200000122"));

        files(&disk).activate(&config).unwrap();
        assert_eq!(text(&disk, "zoo.cfg.dynamic.next"), None);
        assert_eq!(
            text(&disk, "zoo.cfg.dynamic.200000122").unwrap(),
            fixture("conf/zoo.cfg.dynamic.200000122")
        );
        assert_eq!(text(&disk, "zoo.cfg").unwrap(), before);
        assert_eq!(text(&disk, "zoo.cfg.bak"), None);

        files(&disk)
            .activate(&membership(0x3_0000_0002, 2..=3))
            .unwrap();
        assert_eq!(
            text(&disk, "zoo.cfg").unwrap(),
            before.replace("200000122", "300000002")
        );
    }

    #[test]
    fn members_move_out_of_the_configuration_file() {
        let disk = MemDisk::new();
        let before = "# mine\r\ntickTime=1000\nserver.1=h1:1:2\\\n  :participant\nserver.2=h2:1:2\n\
            peerType=observer\nclientPort=2181\ngroup.1=1:2\nsecureClientPort=2281";
        disk.put("conf/zoo.cfg", before.as_bytes());
        let config = membership(0x1_0000_0000, 1..=2);
        files(&disk).activate(&config).unwrap();
        assert_eq!(
            text(&disk, "zoo.cfg").unwrap(),
            "# mine\ntickTime=1000\nsecureClientPort=2281\n\
             dynamicConfigFile=conf/zoo.cfg.dynamic.100000000\n"
        );
        assert_eq!(text(&disk, "zoo.cfg.bak").unwrap(), before);
    }

    #[test]
    fn a_member_that_is_started_again_knows_its_configurations() {
        let configured = membership(0, 1..=3);
        let disk = disk();
        disk.create_dir(Path::new("/data")).unwrap();
        let within = DynamicFiles::within(Arc::new(disk.clone()), 2, Path::new("/data"));
        assert_eq!(
            within.load(configured.clone(), None).unwrap(),
            (configured.clone(), None)
        );
        for files in [within, files(&disk)] {
            let (first, second) = (membership(0x9f, 1..=4), membership(0x101, 1..=2));
            files.propose(&first).unwrap();
            let loaded = files.load(configured.clone(), Some(first.clone()));
            assert_eq!(loaded.unwrap(), (configured.clone(), Some(first.clone())));
            files.activate(&first).unwrap();
            files.activate(&configured).unwrap();
            files.propose(&second).unwrap();
            // The settings themselves say what the configuration file names.
            let configured = match files.named {
                true => first.clone(),
                false => configured.clone(),
            };
            let loaded = files.load(configured.clone(), Some(second.clone()));
            assert_eq!(loaded.unwrap(), (first.clone(), Some(second.clone())));
            files.activate(&second).unwrap();
            files.propose(&first).unwrap();
            let configured = match files.named {
                true => second.clone(),
                false => configured,
            };
            let loaded = files.load(configured, Some(first)).unwrap();
            assert_eq!(loaded, (second, None));
        }
    }

    #[test]
    fn a_change_is_proposed_while_the_history_has_it() {
        let disk = disk();
        let files = files(&disk);
        let (kept, shown) = (0x3_0000_0002, 0x4_0000_0001);
        let committed = membership(0x2_0000_0122, 1..=3);
        let load = |shown| files.load(committed.clone(), Some(membership(shown, 2..=3)));
        let proposed = |shown| load(shown).unwrap().1.map(|config| config.version);
        assert_eq!(proposed(shown), None, "nothing was proposed to this member");

        files.await_tree(&committed).unwrap();
        assert_eq!(files.read(&files.proposed()).unwrap(), None);
        files.await_tree(&membership(kept, 2..=3)).unwrap();
        assert_eq!(proposed(kept), Some(kept), "the tree is there");
        assert_eq!(proposed(committed.version), None, "it did not come");
        assert_eq!(proposed(kept), None, "it is forgotten for good");

        files.propose(&membership(kept, 1..=3)).unwrap();
        files.await_tree(&membership(shown, 2..=3)).unwrap();
        assert_eq!(proposed(kept), Some(kept), "the history is the old one");
        assert_eq!(proposed(shown), Some(shown), "the tree is there");

        // The number of an epoch is in no history.
        let named = 0x5_0000_0000;
        files.propose(&membership(named, 1..=3)).unwrap();
        assert_eq!(proposed(committed.version), Some(named));
        files.activate(&membership(shown, 2..=3)).unwrap();
        assert_eq!(proposed(shown), Some(named), "it is newer");
    }

    #[test]
    fn a_crash_leaves_the_old_configuration_or_the_new_one() {
        let (old, new) = (membership(0x2_0000_0122, 1..=3), membership(0x300, 1..=4));
        let whole = disk();
        files(&whole).activate(&new).unwrap();
        for nth in 1..=whole.syncs() {
            for seed in 0..20 {
                let disk = disk();
                disk.cut_power_at_sync(nth);
                assert!(files(&disk).activate(&new).is_err());
                let disk = disk.lose_power(seed);
                let zoo = text(&disk, "zoo.cfg").unwrap();
                let named = zoo.lines().last().unwrap().rsplit('/').next().unwrap();
                let members = text(&disk, named).unwrap();
                let committed = members.parse::<Membership>().unwrap().members;
                let expected = match named {
                    "zoo.cfg.dynamic.200000122" => &old,
                    "zoo.cfg.dynamic.300" => &new,
                    other => panic!("{other}"),
                };
                assert_eq!(committed, expected.members);
            }
        }
    }

    #[test]
    fn broken_files_are_named() {
        let disk = disk();
        disk.put("conf/zoo.cfg.dynamic.next", b"server.1=nonsense");
        let err = files(&disk).load(membership(0, 1..=1), None).unwrap_err();
        assert!(err.to_string().contains("conf/zoo.cfg.dynamic.next: "));
        disk.remove(Path::new("conf/zoo.cfg")).unwrap();
        let err = files(&disk).activate(&membership(1, 1..=1)).unwrap_err();
        assert!(err.to_string().contains("conf/zoo.cfg"), "{err}");
    }

    #[test]
    fn the_file_of_the_settings_is_known_and_can_be_loaded_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("zoo.cfg");
        let lines = format!(
            "dataDir={}\ninitLimit=10\nsyncLimit=5\nserver.1=127.0.0.1:1:2\nserver.2=127.0.0.1:3:4\nserver.3=127.0.0.1:5:6\n\
             clientPort=2181\n",
            dir.path().display()
        );
        std::fs::write(&path, lines).unwrap();
        std::fs::write(dir.path().join("myid"), "2").unwrap();
        let load = || Source::file(&path).load().unwrap().config;
        let files = DynamicFiles::new(&load());
        let config = membership(0x1_0000_0005, 1..=4);
        files.activate(&config).unwrap();
        let again = load();
        let ensemble = again.ensemble.as_ref().unwrap();
        assert_eq!(Membership::from(ensemble), config);
        assert_eq!(again.client_port, Some(25102));
        let loaded = DynamicFiles::new(&again)
            .load(config.clone(), None)
            .unwrap();
        assert_eq!(loaded, (config, None));
    }
}
