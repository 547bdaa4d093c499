//! Devices by the thousand that answer over Modbus TCP, as cheaply as a server can.
//!
//! A register is a function of device, address and the second, so nothing is kept. Reads of any of the four tables
//! are answered; everything else gets its exception. One thread, one task per connection.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Error, io_error};

/// Length of an MBAP header, and of the request behind it that we answer (Modbus Application Protocol 1.1b3, 6.1-6.4).
const HEADER_BYTES: usize = 7;
const REQUEST_BYTES: usize = HEADER_BYTES + 5;
/// Longest Modbus TCP frame.
const FRAME_BYTES_MAX: usize = 260;
const ILLEGAL_FUNCTION: u8 = 1;
const ILLEGAL_ADDRESS: u8 = 2;
const ILLEGAL_VALUE: u8 = 3;

/// Which devices there are.
#[derive(Clone, Copy, Debug)]
pub struct ModbusOptions {
    /// Where they listen.
    pub host: IpAddr,
    /// Port of the first one.
    pub port: u16,
    /// Devices.
    pub devices: usize,
    /// Units behind one port.
    pub units_per_port: u8,
    /// Registers, and bits, of each, from 0 on.
    pub registers: u16,
}

/// The devices, listening.
#[derive(Debug)]
pub struct ModbusLoad {
    requests: Arc<AtomicU64>,
    listeners: Vec<TcpListener>,
    options: ModbusOptions,
}

impl ModbusLoad {
    /// Listens at every port.
    ///
    /// # Errors
    /// [`Error`] where a port is taken or there are not so many.
    pub async fn bind(options: ModbusOptions) -> Result<Self, Error> {
        let ports = options.devices.div_ceil(usize::from(options.units_per_port.max(1)));
        let mut listeners = Vec::with_capacity(ports);
        for index in 0..ports {
            let port = u16::try_from(usize::from(options.port) + index).map_err(|_| Error::Io {
                action: "listen above port 65535".to_owned(),
                source: io::ErrorKind::AddrNotAvailable.into(),
            })?;
            let address = SocketAddr::new(options.host, port);
            listeners.push(TcpListener::bind(address).await.map_err(io_error(format!("listen at {address}")))?);
        }
        Ok(Self { requests: Arc::default(), listeners, options })
    }

    /// Requests answered so far.
    #[must_use]
    pub fn requests(&self) -> Arc<AtomicU64> {
        self.requests.clone()
    }

    /// Answers until it is dropped.
    pub async fn serve(self) {
        let begun = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for (index, listener) in self.listeners.into_iter().enumerate() {
            let first = index * usize::from(self.options.units_per_port.max(1));
            let units =
                self.options.units_per_port.max(1).min(u8::try_from(self.options.devices - first).unwrap_or(u8::MAX));
            let park = Park { first, units, registers: self.options.registers, begun };
            let requests = self.requests.clone();
            tasks.spawn(async move {
                let mut connections = tokio::task::JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    connections.spawn(converse(stream, park, requests.clone()));
                    while connections.try_join_next().is_some() {}
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    }
}

/// The units behind one port.
#[derive(Clone, Copy, Debug)]
struct Park {
    /// Number of the first device.
    first: usize,
    units: u8,
    registers: u16,
    begun: Instant,
}

async fn converse(mut stream: TcpStream, park: Park, requests: Arc<AtomicU64>) {
    // Without it answers would only come later.
    let _ = stream.set_nodelay(true);
    let mut input = [0; 2 * FRAME_BYTES_MAX];
    let (mut held, mut output) = (0, Vec::with_capacity(FRAME_BYTES_MAX));
    while let Ok(count @ 1..) = stream.read(&mut input[held..]).await {
        held += count;
        let mut at = 0;
        output.clear();
        let second = park.begun.elapsed().as_secs();
        while let Some(length) = frame_length(&input[at..held]) {
            let Ok(length) = length else { return };
            park.answer(&input[at..at + length], second, &mut output);
            requests.fetch_add(1, Ordering::Relaxed);
            at += length;
        }
        input.copy_within(at..held, 0);
        held -= at;
        if stream.write_all(&output).await.is_err() {
            return;
        }
    }
}

/// Length of the frame at the start of `bytes`; `None` until it is whole, an error where it is no Modbus TCP.
fn frame_length(bytes: &[u8]) -> Option<Result<usize, ()>> {
    if bytes.len() < HEADER_BYTES {
        return None;
    }
    let length = HEADER_BYTES - 1 + usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
    if bytes[2..4] != [0, 0] || !(HEADER_BYTES + 1..=FRAME_BYTES_MAX).contains(&length) {
        return Some(Err(()));
    }
    (bytes.len() >= length).then_some(Ok(length))
}

impl Park {
    fn answer(&self, frame: &[u8], second: u64, out: &mut Vec<u8>) {
        let (unit, function) = (frame[HEADER_BYTES - 1], frame[HEADER_BYTES]);
        let begin = out.len();
        out.extend_from_slice(&frame[..HEADER_BYTES]);
        match self.read(frame, unit, function) {
            Ok((first, count)) => {
                let bits = function <= 2;
                let bytes = if bits { count.div_ceil(8) } else { count * 2 };
                out.push(function);
                out.push(u8::try_from(bytes).unwrap_or(u8::MAX));
                if bits {
                    out.resize(out.len() + usize::from(bytes), 0x55);
                } else {
                    let device = (self.first + usize::from(unit)) as u64;
                    let base = device.wrapping_mul(31).wrapping_add(second);
                    for address in first..first + count {
                        let value = base.wrapping_add(u64::from(address) * 7).to_le_bytes();
                        out.extend_from_slice(&[value[1], value[0]]);
                    }
                }
            }
            Err(exception) => out.extend_from_slice(&[function | 0x80, exception]),
        }
        let length = u16::try_from(out.len() - begin - (HEADER_BYTES - 1)).unwrap_or(u16::MAX);
        out[begin + 4..begin + 6].copy_from_slice(&length.to_be_bytes());
    }

    /// First address and count of what is to be read.
    fn read(&self, frame: &[u8], unit: u8, function: u8) -> Result<(u16, u16), u8> {
        // A device with an address of its own answers to any unit.
        if self.units > 1 && !(1..=self.units).contains(&unit) {
            return Err(0x0B);
        }
        if !(1..=4).contains(&function) {
            return Err(ILLEGAL_FUNCTION);
        }
        let Ok([.., a, b, c, d]) = <[u8; REQUEST_BYTES]>::try_from(frame) else { return Err(ILLEGAL_VALUE) };
        let (first, count) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let count_max = if function <= 2 { 2_000 } else { 125 };
        if !(1..=count_max).contains(&count) {
            return Err(ILLEGAL_VALUE);
        }
        match first.checked_add(count) {
            Some(end) if end <= self.registers => Ok((first, count)),
            _ => Err(ILLEGAL_ADDRESS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(park: Park, unit: u8, request: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x12, 0x34, 0, 0, 0, u8::try_from(request.len() + 1).expect("short"), unit];
        frame.extend_from_slice(request);
        assert_eq!(frame_length(&frame), Some(Ok(frame.len())));
        assert_eq!(frame_length(&frame[..frame.len() - 1]), None);
        let mut out = Vec::new();
        park.answer(&frame, 3, &mut out);
        assert_eq!(frame_length(&out), Some(Ok(out.len())));
        assert_eq!((&out[..2], out[6]), (&[0x12, 0x34][..], unit));
        out.split_off(7)
    }

    #[test]
    fn reads_are_answered_and_everything_else_gets_its_exception() {
        let park = Park { first: 100, units: 10, registers: 60, begun: Instant::now() };
        let registers = answer(park, 2, &[3, 0, 0, 0, 60]);
        assert_eq!((registers[0], registers[1], registers.len()), (3, 120, 122));
        assert_eq!(registers[2..6], [0x0C, 0x5D, 0x0C, 0x64], "102 * 31 + 3, and 7 more");
        assert_eq!(answer(park, 2, &[1, 0, 0, 0, 9]), [1, 2, 0x55, 0x55]);
        assert_eq!(answer(park, 2, &[4, 0, 1, 0, 60]), [0x84, ILLEGAL_ADDRESS]);
        assert_eq!(answer(park, 2, &[3, 0, 0, 0, 126]), [0x83, ILLEGAL_VALUE]);
        assert_eq!(answer(park, 2, &[6, 0, 1, 0, 5]), [0x86, ILLEGAL_FUNCTION]);
        assert_eq!(answer(park, 11, &[3, 0, 0, 0, 1]), [0x83, 0x0B]);
    }

    #[test]
    fn what_is_no_modbus_tcp_ends_the_connection() {
        assert_eq!(frame_length(b"GET / HTTP/1.1"), Some(Err(())));
    }
}
