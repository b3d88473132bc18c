//! The beginning of a connection: a four-letter word, or a session that is opened or resumed
//! (spec: client protocol, section 2).

use std::io;
use std::sync::atomic::Ordering::Relaxed;

use quorate_proto::jute::Decode;
use quorate_proto::{ConnectRequest, frame};

use super::super::words;
use super::{End, Fault, Handler};
use crate::service::{Admission, accept, refuse_session};
use crate::session::password;

/// How a handshake ended.
pub(super) enum Handshake {
    /// There is a session.
    Accepted,
    /// Nothing more will come; what is to be sent is in the output.
    Over,
}

impl Handler {
    /// Reads the beginning of a connection: a four-letter word, or the request for a session.
    pub(super) async fn handshake(&mut self) -> Result<Handshake, Fault> {
        if !self.receive(frame::LENGTH_SIZE).await? {
            return Ok(Handshake::Over);
        }
        if let Some(word) = words::word(&self.input) {
            self.connection.stats.received.fetch_add(1, Relaxed);
            self.service.stats.received.fetch_add(1, Relaxed);
            let words = &self.service.config.four_letter_words;
            let end = frame::LENGTH_SIZE + words::argument_size(word, words);
            let argument = if self.receive(end).await? {
                &self.input[frame::LENGTH_SIZE..end]
            } else {
                &[]
            };
            if let Some(text) = words::answer(word, argument, &self.service) {
                self.output.extend_from_slice(text.as_bytes());
                self.service.stats.sent.fetch_add(1, Relaxed);
            }
            return Ok(Handshake::Over);
        }
        let max = self.service.config.jute_max_buffer;
        let frame = loop {
            if let Some(frame) = frame::split(&self.input, max)? {
                break frame.to_vec();
            }
            if !self.receive(self.input.len() + 1).await? {
                return Ok(Handshake::Over);
            }
        };
        self.input.drain(..frame::LENGTH_SIZE + frame.len());
        let request = ConnectRequest::from_slice(&frame)
            .map_err(|_| Fault::Protocol("the first frame is no handshake"))?;
        self.connection.stats.received.fetch_add(1, Relaxed);
        self.service.stats.received.fetch_add(1, Relaxed);
        self.connect(&request).await
    }

    /// Reads until there are `len` bytes of input; false if the client has no more, or the server
    /// stops.
    async fn receive(&mut self, len: usize) -> Result<bool, Fault> {
        while self.input.len() < len {
            tokio::select! {
                readable = self.stream.readable() => readable?,
                // Without a session there is nothing to be told but the end.
                () = self.connection.filled() => return Ok(false),
            }
            if !self.read_chunk()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn connect(&mut self, request: &ConnectRequest<'_>) -> Result<Handshake, Fault> {
        let admission = self.admitted(request).await?;
        if admission == Admission::None {
            return Ok(Handshake::Over);
        }
        if request.read_only.is_some() {
            self.connection.set_knows_read_only();
        }
        if admission == Admission::ReadOnly {
            self.connection.set_read_only();
        }
        let (is_new, mut session) = (request.session_id == 0, request.session_id);
        if is_new {
            session = self.service.next_session();
        } else {
            // Another connection of it here gives way even before the password is checked.
            self.service.connections.close_session(session);
            if request.password != Some(&password(session)) {
                refuse_session(&mut self.output, &self.connection);
                return Ok(Handshake::Over);
            }
        }
        self.service.connections.attach(session, &self.connection);
        let timeout = self.service.negotiate(request.timeout);
        if admission == Admission::ReadOnly {
            return Ok(self.read_only_session(session, is_new, timeout));
        }
        loop {
            let origin = self.origin(0, session);
            let asked = match is_new {
                true => self.service.open_session(timeout, origin),
                false => self.service.resume_session(timeout, origin),
            };
            if asked {
                return Ok(self.accepted(session).await);
            }
            // The server has lost its leader just now.
            if self.admitted(request).await? != Admission::Full {
                return Ok(Handshake::Over);
            }
        }
    }

    /// A session that lasts until there is a leader, and no other server knows. One that others know
    /// cannot be resumed: nobody can say whether it is still there.
    fn read_only_session(&mut self, session: i64, is_new: bool, timeout: i32) -> Handshake {
        if !is_new && !self.service.is_local(session) {
            return Handshake::Over;
        }
        let tracked = self.service.track_locally(session, timeout);
        self.connection.set_session(tracked);
        accept(&mut self.output, &self.connection, session, timeout);
        Handshake::Accepted
    }

    /// Waits until clients are served here, and answers how, unless this one has gone.
    async fn admitted(&mut self, request: &ConnectRequest<'_>) -> Result<Admission, Fault> {
        let content_to_read = request.read_only == Some(true);
        let admission = tokio::select! {
            admission = self.service.admits(content_to_read) => admission,
            // Without a session there is nothing to be told but the end.
            () = self.connection.filled() => Admission::None,
        };
        if admission == Admission::None || !self.read_chunk()? {
            return Ok(Admission::None);
        }
        let seen = request.last_zxid_seen;
        let abreast = self.service.is_abreast_of(seen);
        if !abreast {
            tracing::info!(
                address = %self.connection.address(), zxid = format_args!("{seen:#x}"),
                "refusing a client that has seen a later transaction than this server"
            );
        }
        Ok(if abreast { admission } else { Admission::None })
    }

    /// Reads what there is, if there is something; false if the client sends no more.
    fn read_chunk(&mut self) -> Result<bool, Fault> {
        let mut chunk = [0; 4096];
        match self.stream.try_read(&mut chunk) {
            Ok(0) => return Ok(false),
            Ok(n) => self.input.extend_from_slice(&chunk[..n]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }

    /// Waits until the session is this connection's.
    async fn accepted(&mut self, session: i64) -> Handshake {
        loop {
            self.connection.filled().await;
            let drained = self.connection.drain(&mut self.output);
            if drained.end == End::Closed {
                return Handshake::Over;
            }
            if drained.answers > 0 {
                break;
            }
        }
        // It may have ended meanwhile, before it could find this connection to close it.
        let tracked = self.service.session(session);
        match tracked {
            Some(session) => {
                self.connection.set_session(session);
                Handshake::Accepted
            }
            None => Handshake::Over,
        }
    }
}
