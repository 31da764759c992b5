//! Reader and writer of the fields of control messages: big-endian numbers, names with a length byte,
//! lists with a count that is checked against its bound and the bytes left before anything is
//! allocated.
//!
//! Panic contract: [`Reader`] never panics on any input. [`Writer`] panics only on values that its
//! callers have bounded by type (a name, a list within its limit).

use bytes::{BufMut, Bytes, BytesMut};

use super::ParseError;
use crate::limits;
use crate::types::{Bandwidth, ChannelId, EdgeKey, PeerName, ServiceName, SessionId, TxId};

type Result<T> = std::result::Result<T, ParseError>;

/// Reads fields from the front of a message.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub fn error(&self, what: &'static str) -> ParseError {
        ParseError::new(what, self.at)
    }

    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8]> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| self.error(what))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    pub fn u8(&mut self, what: &'static str) -> Result<u8> {
        Ok(u8::from_be_bytes(self.array(what)?))
    }

    pub fn u16(&mut self, what: &'static str) -> Result<u16> {
        Ok(u16::from_be_bytes(self.array(what)?))
    }

    pub fn u32(&mut self, what: &'static str) -> Result<u32> {
        Ok(u32::from_be_bytes(self.array(what)?))
    }

    pub fn u64(&mut self, what: &'static str) -> Result<u64> {
        Ok(u64::from_be_bytes(self.array(what)?))
    }

    /// 0 or 1; anything else is an error, so that every message has one encoding.
    pub fn bool(&mut self, what: &'static str) -> Result<bool> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(ParseError::new(what, self.at - 1)),
        }
    }

    pub fn bandwidth(&mut self, what: &'static str) -> Result<Bandwidth> {
        let rate = Bandwidth::from_bps(self.u64(what)?);
        if rate <= Bandwidth::MAX { Ok(rate) } else { Err(ParseError::new(what, self.at - 8)) }
    }

    fn short_text(&mut self, what: &'static str) -> Result<&'a str> {
        let start = self.at;
        let length = usize::from(self.u8(what)?);
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes).map_err(|_| ParseError::new(what, start))
    }

    pub fn peer(&mut self, what: &'static str) -> Result<PeerName> {
        let start = self.at;
        PeerName::new(self.short_text(what)?).map_err(|_| ParseError::new(what, start))
    }

    pub fn service(&mut self, what: &'static str) -> Result<ServiceName> {
        let start = self.at;
        ServiceName::new(self.short_text(what)?).map_err(|_| ParseError::new(what, start))
    }

    /// Text for people, at most [`limits::DETAIL_BYTES_MAX`].
    pub fn text(&mut self, what: &'static str) -> Result<String> {
        let start = self.at;
        let length = usize::from(self.u16(what)?);
        if length > limits::DETAIL_BYTES_MAX {
            return Err(ParseError::new(what, start));
        }
        let bytes = self.take(length, what)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| ParseError::new(what, start))
    }

    pub fn session(&mut self, what: &'static str) -> Result<SessionId> {
        Ok(SessionId { counter: self.u64(what)?, initiator: self.peer(what)? })
    }

    pub fn channel(&mut self, what: &'static str) -> Result<ChannelId> {
        let source = self.peer(what)?;
        Ok(ChannelId { source, boot: self.u64(what)?, count: self.u64(what)? })
    }

    pub fn tx(&mut self, what: &'static str) -> Result<TxId> {
        Ok(TxId { channel: self.channel(what)?, attempt: self.u32(what)? })
    }

    /// An edge in its one encoding: smaller name first, two different names.
    pub fn edge(&mut self, what: &'static str) -> Result<EdgeKey> {
        let start = self.at;
        let capacity = self.bandwidth(what)?;
        let (lower, higher) = (self.peer(what)?, self.peer(what)?);
        if lower >= higher {
            return Err(ParseError::new(what, start));
        }
        Ok(EdgeKey { capacity, lower, higher })
    }

    /// A list of at most `max` items of at least one byte each: the count is checked against both
    /// before the first allocation.
    pub fn list<T>(
        &mut self,
        max: usize,
        what: &'static str,
        mut item: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let count = usize::from(self.u16(what)?);
        if count > max || count > self.remaining() {
            return Err(ParseError::new(what, self.at - 2));
        }
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    pub fn option<T>(
        &mut self,
        what: &'static str,
        value: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<Option<T>> {
        if self.bool(what)? { value(self).map(Some) } else { Ok(None) }
    }

    /// The optional field `tag`, if it comes next: a message has its optional fields in the order of
    /// their tags.
    pub fn optional_field<T>(
        &mut self,
        tag: u16,
        what: &'static str,
        value: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<Option<T>> {
        let next = self.bytes.get(self.at..self.at + 2);
        if next != Some(&tag.to_be_bytes()) {
            return Ok(None);
        }
        self.u16(what)?;
        let length = usize::from(self.u16(what)?);
        let mut field = Reader::new(self.take(length, what)?);
        let value = value(&mut field)?;
        if field.remaining() > 0 {
            return Err(self.error(what));
        }
        Ok(Some(value))
    }

    /// The end of a message: optional fields (tag u16, length u16, bytes) that this version does not
    /// know are skipped; a cut one is an error.
    pub fn end(mut self) -> Result<()> {
        while self.remaining() > 0 {
            self.u16("optional field")?;
            let length = usize::from(self.u16("optional field")?);
            self.take(length, "optional field")?;
        }
        Ok(())
    }
}

/// Appends fields to a message.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: BytesMut,
}

impl Writer {
    pub fn new() -> Self {
        Self { bytes: BytesMut::with_capacity(128) }
    }

    pub fn finish(self) -> Bytes {
        self.bytes.freeze()
    }

    /// See [`Reader::optional_field`].
    pub fn optional_field(&mut self, tag: u16, value: impl FnOnce(&mut Self)) {
        let mut field = Self::new();
        value(&mut field);
        self.u16(tag);
        self.u16(u16::try_from(field.bytes.len()).expect("fields are short"));
        self.raw(&field.bytes);
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.put_slice(bytes);
    }

    pub fn u8(&mut self, value: u8) {
        self.bytes.put_u8(value);
    }

    pub fn u16(&mut self, value: u16) {
        self.bytes.put_u16(value);
    }

    pub fn u32(&mut self, value: u32) {
        self.bytes.put_u32(value);
    }

    pub fn u64(&mut self, value: u64) {
        self.bytes.put_u64(value);
    }

    pub fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    pub fn bandwidth(&mut self, rate: Bandwidth) {
        self.u64(rate.bps());
    }

    fn short_text(&mut self, text: &str) {
        self.u8(u8::try_from(text.len()).expect("names are at most 63 bytes"));
        self.raw(text.as_bytes());
    }

    pub fn peer(&mut self, name: &PeerName) {
        self.short_text(name.as_str());
    }

    pub fn service(&mut self, name: &ServiceName) {
        self.short_text(name.as_str());
    }

    /// Text for people, cut at [`limits::DETAIL_BYTES_MAX`] on a character boundary.
    pub fn text(&mut self, text: &str) {
        let cut = text.floor_char_boundary(limits::DETAIL_BYTES_MAX);
        self.u16(u16::try_from(cut).unwrap_or(u16::MAX));
        self.raw(&text.as_bytes()[..cut]);
    }

    pub fn session(&mut self, session: &SessionId) {
        self.u64(session.counter);
        self.peer(&session.initiator);
    }

    pub fn channel(&mut self, channel: &ChannelId) {
        self.peer(&channel.source);
        self.u64(channel.boot);
        self.u64(channel.count);
    }

    pub fn tx(&mut self, tx: &TxId) {
        self.channel(&tx.channel);
        self.u32(tx.attempt);
    }

    pub fn edge(&mut self, edge: &EdgeKey) {
        self.bandwidth(edge.capacity);
        self.peer(&edge.lower);
        self.peer(&edge.higher);
    }

    pub fn list<T>(&mut self, items: &[T], mut item: impl FnMut(&mut Self, &T)) {
        self.u16(u16::try_from(items.len()).expect("lists are bounded by limits.rs"));
        for value in items {
            item(self, value);
        }
    }

    pub fn option<T>(&mut self, value: Option<&T>, item: impl FnOnce(&mut Self, &T)) {
        self.bool(value.is_some());
        if let Some(value) = value {
            item(self, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_optional_fields_are_skipped_and_cut_ones_refused() {
        let mut writer = Writer::new();
        writer.u16(900);
        writer.u16(3);
        writer.raw(b"abc");
        let bytes = writer.finish();
        assert_eq!(Reader::new(&bytes).end(), Ok(()));
        assert!(Reader::new(&bytes[..6]).end().is_err());
    }

    #[test]
    fn a_list_that_claims_more_than_it_has_allocates_nothing() {
        let bytes = [0xff, 0xff, 1];
        let result = Reader::new(&bytes).list(70_000, "list", |r| r.u8("item"));
        assert_eq!(result, Err(ParseError::new("list", 0)));
    }
}
