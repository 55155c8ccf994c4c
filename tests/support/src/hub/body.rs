//! What an answer consists of: pieces of memory, of files, and of nothing in particular.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt, sync::Arc};

#[derive(Debug, Clone)]
pub(super) enum Source {
    /// Bytes at hand.
    Memory(Arc<[u8]>),
    /// A file, read while it is sent.
    File(Arc<File>),
    /// The same byte over and over.
    Fill(u8),
}

/// A part of a source.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) source: Source,
    pub(super) range: Range<u64>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Body {
    pieces: Vec<Piece>,
}

impl Body {
    pub(super) fn bytes(bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        let range = 0..bytes.len() as u64;
        Self::piece(Source::Memory(bytes), range)
    }

    pub(super) fn piece(source: Source, range: Range<u64>) -> Self {
        Self { pieces: vec![Piece { source, range }] }
    }

    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    pub(super) fn length(&self) -> u64 {
        self.pieces.iter().map(Piece::length).sum()
    }

    /// Keeps that many of the first bytes.
    pub(super) fn truncate(&mut self, length: u64) {
        let mut left = length;
        for piece in &mut self.pieces {
            let keep = piece.length().min(left);
            piece.range.end = piece.range.start + keep;
            left -= keep;
        }
    }

    pub(super) fn append(&mut self, byte: u8, count: u64) {
        self.pieces.push(Piece { source: Source::Fill(byte), range: 0..count });
    }

    pub(super) fn prepend(&mut self, byte: u8, count: u64) {
        self.pieces.insert(0, Piece { source: Source::Fill(byte), range: 0..count });
    }

    /// Turns one byte into another; beyond the end there is nothing to turn.
    pub(super) fn flip(&mut self, at: u64) -> io::Result<()> {
        let mut start = 0;
        for index in 0..self.pieces.len() {
            let piece = self.pieces[index].clone();
            let end = start + piece.length();
            if (start..end).contains(&at) {
                let place = piece.range.start + (at - start);
                let mut byte = [0];
                piece.read(place, &mut byte)?;
                let before = Piece { source: piece.source.clone(), range: piece.range.start..place };
                let wrong = Piece { source: Source::Memory(Arc::new([!byte[0]])), range: 0..1 };
                let after = Piece { source: piece.source, range: place + 1..piece.range.end };
                self.pieces.splice(index..=index, [before, wrong, after]);
                return Ok(());
            }
            start = end;
        }
        Ok(())
    }
}

impl Piece {
    pub(super) fn length(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Reads at a place of the source.
    pub(super) fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        match &self.source {
            Source::File(file) => file.read_exact_at(into, at),
            Source::Fill(byte) => {
                into.fill(*byte);
                Ok(())
            }
            Source::Memory(bytes) => {
                let at = usize::try_from(at).map_err(io::Error::other)?;
                into.copy_from_slice(&bytes[at..at + into.len()]);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &Body) -> Vec<u8> {
        let mut all = Vec::new();
        for piece in body.pieces() {
            let mut bytes = vec![0; piece.length() as usize];
            piece.read(piece.range.start, &mut bytes).unwrap();
            all.extend(bytes);
        }
        all
    }

    #[test]
    fn bodies_are_cut_stretched_and_spoiled() {
        let mut body = Body::bytes(*b"abcdef");
        body.append(b'x', 3);
        body.prepend(b' ', 2);
        body.flip(3).unwrap();
        assert_eq!(read(&body), [b' ', b' ', b'a', !b'b', b'c', b'd', b'e', b'f', b'x', b'x', b'x']);
        body.truncate(5);
        assert_eq!(read(&body), [b' ', b' ', b'a', !b'b', b'c']);
        assert_eq!(body.length(), 5);
        body.flip(5).unwrap();
        assert_eq!(body.length(), 5);
    }
}
