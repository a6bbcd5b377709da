//! Huffman-coded coefficients: baseline, and the passes of progressive files.

use std::ops::Range;

use super::{Block, Component, ZIGZAG};

/// A Huffman code: by the next 16 bits, the symbol and the bits of its code (0 where there is none).
#[derive(Debug)]
pub(super) struct Huffman(Vec<(u8, u8)>);

impl Huffman {
    /// From the number of codes of each length and the symbols in the order of their codes.
    pub(super) fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Huffman> {
        let mut table = Vec::with_capacity(1 << 16);
        let mut symbols = symbols.iter();
        for (length, count) in (1u8..).zip(counts) {
            for symbol in symbols.by_ref().take(usize::from(*count)) {
                let end = table.len() + (1 << (16 - length));
                if end > 1 << 16 {
                    return None;
                }
                table.resize(end, (*symbol, length));
            }
        }
        table.resize(1 << 16, (0, 0));
        Some(Huffman(table))
    }
}

/// What a scan codes.
pub(super) struct Scan {
    pub(super) is_progressive: bool,
    /// Coefficients, in the order of the file.
    pub(super) spectral: Range<usize>,
    /// Bits of precision that earlier scans left out, and that this one leaves out.
    pub(super) high: u32,
    pub(super) low: u32,
    /// Units between restarts; 0 without.
    pub(super) restart: usize,
}

/// A component of a scan and its codes.
pub(super) struct Table<'a> {
    pub(super) component: usize,
    pub(super) dc: Option<&'a Huffman>,
    pub(super) ac: Option<&'a Huffman>,
}

/// Bits of coded data, up to the next marker.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    buffer: u64,
    count: u32,
    /// Zero bits put behind the data.
    padded: u32,
}

impl Bits<'_> {
    fn fill(&mut self) {
        while self.count <= 48 {
            let byte = match (self.bytes.get(self.at), self.bytes.get(self.at + 1)) {
                (Some(0xff), Some(0)) => {
                    self.at += 2;
                    0xff
                }
                (Some(0xff), _) | (None, _) => {
                    self.padded += 8;
                    0
                }
                (Some(byte), _) => {
                    self.at += 1;
                    *byte
                }
            };
            self.buffer = self.buffer << 8 | u64::from(byte);
            self.count += 8;
        }
    }

    /// The next `count` bits (at most 16), taken.
    fn take(&mut self, count: u32) -> Result<u32, String> {
        self.fill();
        self.count -= count;
        // Bits behind the data may be looked at, not used.
        if self.count < self.padded {
            return Err("coded data that ends too early (truncated?)".into());
        }
        Ok((self.buffer >> self.count) as u32 & ((1 << count) - 1))
    }

    fn symbol(&mut self, code: Option<&Huffman>) -> Result<u8, String> {
        let code = code.ok_or("a Huffman table that is not there")?;
        self.fill();
        let next = (self.buffer >> (self.count - 16)) as usize & 0xffff;
        match code.0[next] {
            (_, 0) => Err("a code that is not in its Huffman table".into()),
            (symbol, length) => self.take(length.into()).map(|_| symbol),
        }
    }

    /// A value of `size` bits, sign extended in JPEG's way.
    fn value(&mut self, size: u8) -> Result<i32, String> {
        if size == 0 {
            return Ok(0);
        }
        if size > 15 {
            return Err("a coefficient of more than 15 bits".into());
        }
        let bits = self.take(size.into())? as i32;
        Ok(if bits < 1 << (size - 1) { bits - (1 << size) + 1 } else { bits })
    }

    /// Goes on behind a restart marker.
    fn restart(&mut self) -> Result<(), String> {
        (self.buffer, self.count, self.padded) = (0, 0, 0);
        match self.bytes.get(self.at..self.at + 2) {
            Some([0xff, 0xd0..=0xd7]) => {
                self.at += 2;
                Ok(())
            }
            _ => Err("a restart marker that is not there".into()),
        }
    }
}

/// What goes on from block to block.
struct State<'a> {
    bits: Bits<'a>,
    /// The DC value before, by component.
    dc: [i32; 4],
    /// Blocks left that have no more coefficients.
    empty: u32,
}

/// Reads a scan's coefficients into the components; gives the number of coded bytes.
pub(super) fn read(
    coded: &[u8],
    scan: &Scan,
    tables: &[Table],
    components: &mut [Component],
) -> Result<usize, String> {
    let bits = Bits { bytes: coded, at: 0, buffer: 0, count: 0, padded: 0 };
    let mut state = State { bits, dc: [0; 4], empty: 0 };
    // A single component is coded block by block, several in units of as many blocks as they are sampled.
    let (units_across, units) = match tables {
        [only] => {
            let component = &components[only.component];
            let across = component.width.div_ceil(8);
            (across, across * component.height.div_ceil(8))
        }
        _ => {
            let component = &components[tables[0].component];
            let across = component.columns / component.h;
            (across, across * (component.rows / component.v))
        }
    };
    for unit in 0..units {
        if scan.restart > 0 && unit > 0 && unit % scan.restart == 0 {
            state.bits.restart()?;
            (state.dc, state.empty) = ([0; 4], 0);
        }
        let (x, y) = (unit % units_across, unit / units_across);
        for table in tables {
            let component = &mut components[table.component];
            let (h, v) = if tables.len() == 1 { (1, 1) } else { (component.h, component.v) };
            for block in 0..h * v {
                let at = (y * v + block / h) * component.columns + x * h + block % h;
                let block = component.blocks.get_mut(at).ok_or("a block out of the picture")?;
                state.block(scan, table, block)?;
            }
        }
    }
    Ok(state.bits.at)
}

impl State<'_> {
    fn block(&mut self, scan: &Scan, table: &Table, block: &mut Block) -> Result<(), String> {
        match (scan.is_progressive, scan.spectral.start, scan.high) {
            (false, ..) => {
                self.dc_value(table, 0, block)?;
                self.baseline(table, block)
            }
            (true, 0, 0) => self.dc_value(table, scan.low, block),
            (true, 0, _) => {
                if self.bits.take(1)? == 1 {
                    block[0] |= 1 << scan.low;
                }
                Ok(())
            }
            (true, _, 0) => self.first(scan, table, block),
            (true, ..) => self.refine(scan, table, block),
        }
    }

    fn dc_value(&mut self, table: &Table, low: u32, block: &mut Block) -> Result<(), String> {
        let size = self.bits.symbol(table.dc)?;
        let difference = self.bits.value(size)?;
        let dc = &mut self.dc[table.component];
        *dc = dc.wrapping_add(difference);
        block[0] = (*dc << low) as i16;
        Ok(())
    }

    fn baseline(&mut self, table: &Table, block: &mut Block) -> Result<(), String> {
        let mut at = 1;
        while at < 64 {
            let symbol = self.bits.symbol(table.ac)?;
            let (run, size) = (usize::from(symbol >> 4), symbol & 15);
            match (run, size) {
                (15, 0) => at += 16,
                (_, 0) => break,
                _ => {
                    at += run;
                    let value = self.bits.value(size)?;
                    let place = ZIGZAG.get(at).ok_or("coefficients behind the last one")?;
                    block[*place] = value as i16;
                    at += 1;
                }
            }
        }
        Ok(())
    }

    /// The first pass over AC coefficients.
    fn first(&mut self, scan: &Scan, table: &Table, block: &mut Block) -> Result<(), String> {
        if self.empty > 0 {
            self.empty -= 1;
            return Ok(());
        }
        let mut at = scan.spectral.start;
        while at < scan.spectral.end {
            let symbol = self.bits.symbol(table.ac)?;
            let (run, size) = (symbol >> 4, symbol & 15);
            match (run, size) {
                (15, 0) => at += 16,
                (run, 0) => {
                    self.empty = (1 << run) - 1 + self.bits.take(run.into())?;
                    break;
                }
                _ => {
                    at += usize::from(run);
                    let value = self.bits.value(size)?;
                    let place = ZIGZAG.get(at).filter(|_| at < scan.spectral.end);
                    block[*place.ok_or("coefficients behind the last one")?] = (value << scan.low) as i16;
                    at += 1;
                }
            }
        }
        Ok(())
    }

    /// A later pass: one more bit of the coefficients there are, and new ones among them.
    fn refine(&mut self, scan: &Scan, table: &Table, block: &mut Block) -> Result<(), String> {
        let bit = 1i16 << scan.low;
        let mut at = scan.spectral.start;
        if self.empty == 0 {
            while at < scan.spectral.end {
                let symbol = self.bits.symbol(table.ac)?;
                let (mut run, size) = (symbol >> 4, symbol & 15);
                let mut new = 0;
                match (run, size) {
                    (15, 0) => {}
                    (run, 0) => {
                        self.empty = (1 << run) + self.bits.take(run.into())?;
                        break;
                    }
                    (_, 1) => new = if self.bits.take(1)? == 1 { bit } else { -bit },
                    _ => return Err("a new coefficient of more than one bit".into()),
                }
                // Over `run` zeros, refining what is not zero on the way.
                while at < scan.spectral.end {
                    let coefficient = &mut block[ZIGZAG[at]];
                    at += 1;
                    if *coefficient != 0 {
                        self.correct(coefficient, bit)?;
                    } else if run == 0 {
                        *coefficient = new;
                        break;
                    } else {
                        run -= 1;
                    }
                }
            }
        }
        if self.empty > 0 {
            for place in &ZIGZAG[at..scan.spectral.end] {
                if block[*place] != 0 {
                    self.correct(&mut block[*place], bit)?;
                }
            }
            self.empty -= 1;
        }
        Ok(())
    }

    fn correct(&mut self, coefficient: &mut i16, bit: i16) -> Result<(), String> {
        if self.bits.take(1)? == 1 && *coefficient & bit == 0 {
            *coefficient = coefficient.wrapping_add(if *coefficient > 0 { bit } else { -bit });
        }
        Ok(())
    }
}
