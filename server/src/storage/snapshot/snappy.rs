//! The framing of `snappy-java`, which is not that of the snappy project: a header, then blocks of
//! raw snappy with their length in front.

use std::io::{self, Read, Write};

use snap::raw::{Decoder, Encoder, decompress_len, max_compress_len};

/// Magic, version 1, compatible with version 1.
const HEADER: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
/// Bytes that are compressed at once.
const BLOCK: usize = 32 << 10;
/// The longest block that is taken; writers may be set to other lengths than ours.
const MAX_BLOCK: usize = 64 << 20;

pub(crate) struct SnappyWriter<W> {
    out: W,
    encoder: Encoder,
    block: Vec<u8>,
    compressed: Vec<u8>,
    begun: bool,
}

impl<W: Write> SnappyWriter<W> {
    pub(crate) fn new(out: W) -> Self {
        SnappyWriter {
            out,
            encoder: Encoder::new(),
            block: Vec::with_capacity(BLOCK),
            compressed: vec![0; max_compress_len(BLOCK)],
            begun: false,
        }
    }

    fn write_block(&mut self) -> io::Result<()> {
        if !self.begun {
            self.out.write_all(&HEADER)?;
            self.begun = true;
        }
        if self.block.is_empty() {
            return Ok(());
        }
        let n = self.encoder.compress(&self.block, &mut self.compressed)?;
        self.block.clear();
        let length = i32::try_from(n).map_err(io::Error::other)?;
        self.out.write_all(&length.to_be_bytes())?;
        self.out.write_all(&self.compressed[..n])
    }

    /// Writes what is left and hands back what was written to.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.write_block()?;
        Ok(self.out)
    }
}

impl<W: Write> Write for SnappyWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.block.len() == BLOCK {
            self.write_block()?;
        }
        let n = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_block()?;
        self.out.flush()
    }
}

pub(crate) struct SnappyReader<R> {
    input: R,
    decoder: Decoder,
    compressed: Vec<u8>,
    block: Vec<u8>,
    at: usize,
    begun: bool,
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

impl<R: Read> SnappyReader<R> {
    pub(crate) fn new(input: R) -> Self {
        SnappyReader {
            input,
            decoder: Decoder::new(),
            compressed: Vec::new(),
            block: Vec::new(),
            at: 0,
            begun: false,
        }
    }

    fn read_header(&mut self) -> io::Result<()> {
        let mut header = [0; HEADER.len()];
        self.input.read_exact(&mut header)?;
        // Versions may differ; the layout does not.
        if header[..8] != HEADER[..8] {
            return Err(invalid("it does not begin like a snappy file"));
        }
        self.begun = true;
        Ok(())
    }

    /// Reads the next block; false at the end.
    fn read_block(&mut self) -> io::Result<bool> {
        let mut length = [0; 4];
        if self.input.read(&mut length[..1])? == 0 {
            return Ok(false);
        }
        self.input.read_exact(&mut length[1..])?;
        let length = usize::try_from(i32::from_be_bytes(length)).ok();
        let length = length.filter(|length| *length <= MAX_BLOCK);
        let length = length.ok_or_else(|| invalid("a snappy block has an impossible length"))?;
        self.compressed.clear();
        // Reads what is there, rather than reserving what is claimed.
        let read = (&mut self.input)
            .take(length as u64)
            .read_to_end(&mut self.compressed)?;
        if read < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let size = decompress_len(&self.compressed)?;
        // Snappy packs no more than 64 bytes into three.
        if size > MAX_BLOCK || size / 32 > length {
            return Err(invalid("a snappy block claims an impossible size"));
        }
        self.block.resize(size, 0);
        self.decoder.decompress(&self.compressed, &mut self.block)?;
        self.at = 0;
        Ok(true)
    }
}

impl<R: Read> Read for SnappyReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if !self.begun {
            self.read_header()?;
        }
        while self.at == self.block.len() {
            if !self.read_block()? {
                return Ok(0);
            }
        }
        let n = buf.len().min(self.block.len() - self.at);
        buf[..n].copy_from_slice(&self.block[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}
