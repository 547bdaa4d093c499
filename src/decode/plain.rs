//! The usual form of a native message, read byte by byte: numbers without exponents, names without escapes, no other key
//! than `ts` and `readings`. What is in any other form, or wrong, is left to the parser that knows all of JSON.
//!
//! It must read nothing otherwise than that one; a property test in `native` holds them together.

use std::borrow::Cow;

use super::event_time::GivenTime;
use super::native::NativeMessage;

/// Digits up to which a number and the power of ten that divides it are exact in binary64, so that the quotient is the
/// nearest one to what was written (Clinger 1990).
const DIGITS_MAX: usize = 15;
const POWERS: [f64; DIGITS_MAX + 1] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
/// Readings that a message is expected to have at the most.
const READINGS_EXPECTED: usize = 16;

/// Bytes that stand for themselves in a name and are ASCII.
const IS_PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = b' ';
    while byte <= b'~' {
        plain[byte as usize] = byte != b'"' && byte != b'\\';
        byte += 1;
    }
    plain
};

/// Reads a message; `None` where it is not in the usual form.
pub(super) fn read(payload: &[u8]) -> Option<NativeMessage<'_>> {
    let mut cursor = Cursor { text: std::str::from_utf8(payload).ok()?, at: 0 };
    let (mut time, mut readings) = (None, None);
    cursor.expect(b'{')?;
    loop {
        match cursor.name()? {
            "ts" if time.is_none() => time = Some(GivenTime::Whole(cursor.whole()?)),
            "readings" if readings.is_none() => readings = Some(cursor.readings()?),
            _ => return None,
        }
        match cursor.next()? {
            b',' => {}
            b'}' => break,
            _ => return None,
        }
    }
    cursor.skip_space();
    (cursor.at == payload.len()).then_some(NativeMessage { time, readings: readings? })
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// The next byte that is no white space.
    fn next(&mut self) -> Option<u8> {
        self.skip_space();
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    /// A name and the colon behind it.
    fn name(&mut self) -> Option<&'a str> {
        self.expect(b'"')?;
        let start = self.at;
        let rest = &self.text.as_bytes()[start..];
        let length = rest.iter().position(|&byte| !IS_PLAIN[usize::from(byte)])?;
        if rest[length] != b'"' {
            return None;
        }
        self.at = start + length + 1;
        self.expect(b':')?;
        self.text.get(start..start + length)
    }

    fn readings(&mut self) -> Option<Vec<(Cow<'a, str>, Option<f64>)>> {
        self.expect(b'{')?;
        let mut readings = Vec::with_capacity(READINGS_EXPECTED);
        loop {
            let name = self.name()?;
            readings.push((Cow::Borrowed(name), Some(self.number()?)));
            match self.next()? {
                b',' => {}
                b'}' => return Some(readings),
                _ => return None,
            }
        }
    }

    /// Digits that follow, added to `value`; `None` where there is none. Returns how many, too.
    fn digits(&mut self, mut value: u64) -> Option<(u64, usize)> {
        let start = self.at;
        let rest = &self.text.as_bytes()[start..];
        for digit in rest.iter().map(|byte| byte.wrapping_sub(b'0')).take_while(|digit| *digit < 10) {
            value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
            self.at += 1;
        }
        let count = self.at - start;
        (1..=DIGITS_MAX).contains(&count).then_some((value, count))
    }

    /// A whole number without a sign, as epoch milliseconds are.
    fn whole(&mut self) -> Option<i64> {
        self.skip_space();
        let leads_with_zero = self.peek() == Some(b'0');
        let (value, count) = self.digits(0)?;
        let ends = !matches!(self.peek(), Some(b'.' | b'e' | b'E'));
        (ends && (count == 1 || !leads_with_zero)).then_some(i64::try_from(value).ok()?)
    }

    #[expect(clippy::cast_precision_loss, reason = "fifteen digits are exact")]
    fn number(&mut self) -> Option<f64> {
        self.skip_space();
        let is_negative = self.peek() == Some(b'-');
        self.at += usize::from(is_negative);
        let leads_with_zero = self.peek() == Some(b'0');
        let (mut value, whole_digits) = self.digits(0)?;
        let mut fraction_digits = 0;
        if self.peek() == Some(b'.') {
            self.at += 1;
            (value, fraction_digits) = self.digits(value)?;
        }
        let is_sound = whole_digits == 1 || !leads_with_zero;
        if !is_sound || whole_digits + fraction_digits > DIGITS_MAX || matches!(self.peek(), Some(b'e' | b'E')) {
            return None;
        }
        let size = value as f64 / POWERS[fraction_digits];
        Some(if is_negative { -size } else { size })
    }
}
