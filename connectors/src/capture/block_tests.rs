//! Blocks as they are written and read, damaged and hostile ones too.

use super::*;
use proptest::prelude::*;
use proptest::sample::Index;

fn split(block: &[u8]) -> (&[u8; HEADER_BYTES], &[u8]) {
    block.split_first_chunk().unwrap()
}

fn written(records: &[Owned]) -> Vec<u8> {
    let (mut builder, mut out) = (Builder::default(), Vec::new());
    records.iter().for_each(|record| builder.push(&record.as_record()));
    builder.finish(&mut Packer::new().unwrap(), &mut out).unwrap();
    assert!(builder.is_empty() && builder.bytes() == 0);
    out
}

fn read(block: &[u8]) -> Result<Vec<Owned>, &'static str> {
    let (front, rest) = split(block);
    let mut buffer = b"old".to_vec();
    let records = Unpacker::new().unwrap().read(front, rest, &mut buffer)?;
    let get = |span: Span| span.bytes(&buffer, &[]).to_vec();
    let owned = |record: RecordMeta| Owned {
        offset: record.offset,
        timestamp: record.timestamp.map(|at| at.0),
        host: (!record.host.is_none()).then(|| get(record.host)),
        value: get(record.value),
    };
    Ok(records.into_iter().map(owned).collect())
}

#[derive(Clone, Debug, PartialEq)]
struct Owned {
    offset: u64,
    timestamp: Option<u64>,
    host: Option<Vec<u8>>,
    value: Vec<u8>,
}

impl Owned {
    fn as_record(&self) -> Record<'_> {
        let Owned { offset, timestamp, host, value } = self;
        Record { offset: *offset, timestamp: timestamp.map(WallTime), host: host.as_deref(), value }
    }
}

fn arb_records() -> impl Strategy<Value = Vec<Owned>> {
    let time = prop_oneof![Just(None), (0..3_000u64).prop_map(Some), (0..=i64::MAX as u64).prop_map(Some)];
    let host = prop_oneof![
        Just(None),
        Just(Some(b"web1".to_vec())),
        proptest::collection::vec(any::<u8>(), 0..9).prop_map(Some)
    ];
    let value = prop_oneof![Just(b"a line\r\n".to_vec()), proptest::collection::vec(any::<u8>(), 0..99)];
    let record = (prop_oneof![Just(1u64), 1..1u64 << 40], time, host, value);
    (0..1u64 << 62, proptest::collection::vec(record, 1..60)).prop_map(|(first, records)| {
        let mut offset = first;
        let owned = |(step, timestamp, host, value): (u64, Option<u64>, Option<Vec<u8>>, Vec<u8>)| {
            offset += step;
            Owned { offset, timestamp, host, value }
        };
        records.into_iter().map(owned).collect()
    })
}

proptest! {
    #[test]
    fn what_is_read_is_what_was_written(records in arb_records()) {
        prop_assert_eq!(read(&written(&records)), Ok(records));
    }

    /// Also the front, whose lengths say how much is read.
    #[test]
    fn a_byte_that_was_changed_is_found(records in arb_records(), at in any::<Index>(), bits in 1u8..) {
        let mut block = written(&records);
        let at = at.index(block.len());
        block[at] ^= bits;
        prop_assert!(read(&block).is_err(), "byte {}", at);
    }

    /// Whoever makes a checksum that fits can put anything into a block.
    #[test]
    fn a_hostile_block_is_an_error_or_some_records(
        records in arb_records(),
        changes in proptest::collection::vec((any::<Index>(), any::<u8>()), 1..6),
        length in proptest::option::of(any::<u32>()),
    ) {
        let mut builder = Builder::default();
        records.iter().for_each(|record| builder.push(&record.as_record()));
        let columns = [&mut builder.names, &mut builder.offsets, &mut builder.timestamps, &mut builder.lengths, &mut builder.hosts];
        for ((at, b), column) in changes.into_iter().zip(columns) {
            if !column.is_empty() {
                let at = at.index(column.len());
                column[at] = b;
            }
        }
        let mut block = Vec::new();
        builder.finish(&mut Packer::new().unwrap(), &mut block).unwrap();
        if let Some(length) = length {
            block[12..16].copy_from_slice(&length.to_le_bytes());
            let (front, rest) = block.split_at_mut(HEADER_BYTES);
            let sum = checksum(&front[8..8 + Header::BYTES], rest);
            front[8 + Header::BYTES..].copy_from_slice(&sum.to_le_bytes());
        }
        if let Ok(found) = read(&block) {
            prop_assert_eq!(found.len(), records.len());
        }
    }
}

#[test]
fn a_front_says_no_length_that_no_block_has() {
    let record = Owned { offset: 7, timestamp: Some(1), host: None, value: b"x".to_vec() };
    let block = written(std::slice::from_ref(&record));
    let (front, rest) = split(&block);
    assert_eq!(Header::read(front).map(|header| (header.records, header.first, header.rest())), Ok((1, 7, rest.len())));
    let rows: &[(&str, usize, u32)] = &[
        ("no records", 8, 0),
        ("too many", 8, FULL_RECORDS + 1),
        ("values", 12, MAX_BYTES as u32 + 1),
        ("frame", 16, MAX_COMPRESSED as u32 + 1),
        ("columns", 20, u32::MAX),
        ("packed without the frame's length", 24, 1),
        ("something reserved", 28, 1),
        ("another frame", 0, OF_HEAD),
        ("the first behind the last", 32, 8),
    ];
    for (name, at, number) in rows {
        let mut front = *front;
        front[*at..at + 4].copy_from_slice(&number.to_le_bytes());
        assert!(Header::read(&front).is_err(), "{name}");
    }
}

#[test]
fn a_block_is_full_by_bytes_and_by_records() {
    let mut builder = Builder::default();
    let record = |offset, value| Record { offset, timestamp: None, host: None, value };
    let mut offset = 0;
    while !builder.is_full() {
        builder.push(&record(offset, b""));
        offset += 1;
    }
    assert_eq!(builder.records, FULL_RECORDS);
    builder.finish(&mut Packer::new().unwrap(), &mut Vec::new()).unwrap();
    let long = vec![b'x'; FULL_BYTES - 20];
    builder.push(&record(0, &long));
    assert!(!builder.is_full());
    // The longest that there is, behind a block that is nearly full.
    let longest = vec![b'x'; MAX_LINE_BYTES + 9];
    builder.push(&record(1, &longest));
    assert!(builder.is_full() && builder.bytes() < MAX_BYTES);
    let mut block = Vec::new();
    builder.finish(&mut Packer::new().unwrap(), &mut block).unwrap();
    let lengths: Vec<usize> = read(&block).unwrap().iter().map(|record| record.value.len()).collect();
    assert_eq!(lengths, [long.len(), MAX_LINE_BYTES + 1]);
}

#[test]
fn numbers_are_as_long_as_they_need_be() {
    for (number, length) in [(0, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (u64::MAX - 1, 10), (u64::MAX, 10)] {
        let mut out = Vec::new();
        put(&mut out, number);
        let mut rest = &out[..];
        assert_eq!((out.len(), take(&mut rest), rest.len()), (length, Some(number), 0), "{number}");
    }
    for bytes in [&b""[..], b"\x80", &[0xff; 11], b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"] {
        assert_eq!(take(&mut &bytes[..]), None, "{bytes:?}");
    }
}
