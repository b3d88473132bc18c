//! The beginning of a connection: a four-letter word, or a session that is opened or resumed
//! (spec: client protocol, section 2).

use std::io;
use std::sync::atomic::Ordering::Relaxed;

use quorate_proto::jute::{Decode, Encode};
use quorate_proto::{ConnectRequest, ConnectResponse, frame};

use super::super::words;
use super::{End, Fault, Handler};
use crate::session::{PASSWORD_SIZE, password};

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
            let mut chunk = [0; 4096];
            match self.stream.try_read(&mut chunk) {
                Ok(0) => return Ok(false),
                Ok(n) => self.input.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    async fn connect(&mut self, request: &ConnectRequest<'_>) -> Result<Handshake, Fault> {
        if !self.service.is_serving() {
            return Ok(Handshake::Over);
        }
        let seen = request.last_zxid_seen;
        if seen > self.service.tree().last_zxid() {
            tracing::info!(
                address = %self.connection.address(), zxid = format_args!("{seen:#x}"),
                "refusing a client that has seen a later transaction than this server"
            );
            return Ok(Handshake::Over);
        }
        if request.read_only.is_some() {
            self.connection.set_knows_read_only();
        }
        let timeout = self.service.negotiate(request.timeout);
        Ok(match request.session_id {
            0 => self.open_session(timeout).await,
            session => {
                let password = request.password;
                self.resume_session(session, timeout, password).await
            }
        })
    }

    async fn open_session(&mut self, timeout: i32) -> Handshake {
        let session = self.service.next_session();
        self.service.connections.attach(session, &self.connection);
        self.service.open_session(session, timeout, self.origin(0));
        self.accepted(session).await
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
        let tracked = self.service.sessions.lock().get(session).cloned();
        match tracked {
            Some(session) => {
                self.connection.set_session(session);
                Handshake::Accepted
            }
            None => Handshake::Over,
        }
    }

    /// A connection that a session already has here gives way even before the password is checked.
    async fn resume_session(
        &mut self,
        session: i64,
        timeout: i32,
        given: Option<&[u8]>,
    ) -> Handshake {
        self.service.connections.close_session(session);
        let now = self.service.now();
        let known = {
            let mut sessions = self.service.sessions.lock();
            let known = given == Some(&password(session)) && sessions.get(session).is_some();
            if known {
                sessions.track(session, timeout.max(0).cast_unsigned(), now);
            }
            known
        };
        if !known {
            let response = ConnectResponse {
                protocol_version: 0,
                timeout: 0,
                session_id: 0,
                password: Some(&[0; PASSWORD_SIZE]),
                read_only: self.connection.knows_read_only().then_some(false),
            };
            frame::write(&mut self.output, |out| response.encode(out));
            return Handshake::Over;
        }
        self.service.connections.attach(session, &self.connection);
        let origin = self.origin(0);
        self.service.resume_session(session, timeout, origin);
        self.accepted(session).await
    }
}
