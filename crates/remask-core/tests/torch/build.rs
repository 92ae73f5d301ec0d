//! Pickles and archives written by hand, byte by byte, so that they can be wrong in every way.

/// A pickle of protocol 2 that makes `body`.
pub fn pickle(body: &[u8]) -> Vec<u8> {
    [&[0x80, 2], body, b"."].concat()
}

pub fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

pub fn int(number: i64) -> Vec<u8> {
    match i32::try_from(number) {
        Ok(number) => [b"J", &number.to_le_bytes()[..]].concat(),
        Err(_) => [&[0x8A, 8], &number.to_le_bytes()[..]].concat(),
    }
}

pub fn global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

pub fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(", &items.concat()[..], b"t"].concat()
}

pub fn ints(numbers: &[i64]) -> Vec<u8> {
    tuple(&numbers.iter().map(|n| int(*n)).collect::<Vec<_>>())
}

pub fn dict(pairs: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let pairs: Vec<_> = pairs.iter().map(|(key, value)| [text(key), value.clone()].concat()).collect();
    [b"}(", &pairs.concat()[..], b"u"].concat()
}

pub fn call(callable: Vec<u8>, arguments: &[Vec<u8>]) -> Vec<u8> {
    [callable, tuple(arguments), b"R".to_vec()].concat()
}

/// A storage of `class`, which may be a name of module torch or a whole one.
pub fn storage(class: &str, key: &str, numel: i64) -> Vec<u8> {
    let (module, class) = class.rsplit_once('.').unwrap_or(("torch", class));
    let id = [text("storage"), global(module, class), text(key), text("cpu"), int(numel)];
    [tuple(&id), b"Q".to_vec()].concat()
}

/// A tensor of a storage.
pub fn tensor(storage: Vec<u8>, offset: i64, sizes: &[i64], strides: &[i64]) -> Vec<u8> {
    let hooks = call(global("collections", "OrderedDict"), &[]);
    let parts = [storage, int(offset), ints(sizes), ints(strides), vec![0x89], hooks];
    call(global("torch._utils", "_rebuild_tensor_v2"), &parts)
}

/// An entry of an archive: what the records say of it, which need not be so.
#[derive(Clone)]
pub struct Entry {
    pub name: String,
    pub data: Vec<u8>,
    pub method: u16,
    pub flags: u16,
    /// The size that the directory claims, and where the entry is to begin.
    pub claims: Option<u64>,
    pub place: Option<u64>,
    /// The name in the entry's own header.
    pub own_name: Option<String>,
}

impl Entry {
    pub fn new(name: &str, data: &[u8]) -> Self {
        // torch sets the flags for UTF-8 names and for sizes that follow the data.
        let (name, data) = (name.to_owned(), data.to_vec());
        Self { name, data, method: 0, flags: 0x0808, claims: None, place: None, own_name: None }
    }
}

/// An archive as torch writes it: local headers without sizes, data on multiples of 64, a directory; with `large`,
/// sizes and places of 64 bits.
pub fn zip(entries: &[Entry], large: bool) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let place = entry.place.unwrap_or(file.len() as u64);
        let own_name = entry.own_name.as_ref().unwrap_or(&entry.name);
        let padding = 64 - (file.len() + 30 + own_name.len() + 4) % 64;
        file.extend(b"PK\x03\x04\0\0");
        file.extend(entry.flags.to_le_bytes());
        file.extend(entry.method.to_le_bytes());
        file.extend([0; 16]);
        file.extend((own_name.len() as u16).to_le_bytes());
        file.extend((padding as u16 + 4).to_le_bytes());
        file.extend(own_name.as_bytes());
        file.extend(b"FB");
        file.extend((padding as u16).to_le_bytes());
        file.extend(vec![b'Z'; padding]);
        file.extend(&entry.data);

        let size = entry.claims.unwrap_or(entry.data.len() as u64);
        let extra = if large {
            [&[1, 0, 24, 0][..], &[size, size, place].map(u64::to_le_bytes).concat()].concat()
        } else {
            vec![]
        };
        let short = |n: u64| if large { [0xFF; 4] } else { (n as u32).to_le_bytes() };
        directory.extend(b"PK\x01\x02\0\0\0\0");
        directory.extend(entry.flags.to_le_bytes());
        directory.extend(entry.method.to_le_bytes());
        directory.extend([0; 8]);
        directory.extend(short(size));
        directory.extend(short(size));
        directory.extend((entry.name.len() as u16).to_le_bytes());
        directory.extend((extra.len() as u16).to_le_bytes());
        directory.extend([0; 10]);
        directory.extend(short(place));
        directory.extend(entry.name.as_bytes());
        directory.extend(&extra);
    }
    let (start, count) = (file.len() as u64, entries.len() as u64);
    let length = directory.len() as u64;
    file.extend(directory);
    if large {
        let end = file.len() as u64;
        file.extend(b"PK\x06\x06");
        file.extend(44u64.to_le_bytes());
        file.extend([0; 12]);
        file.extend([count, count, length, start].map(u64::to_le_bytes).concat());
        file.extend(b"PK\x06\x07\0\0\0\0");
        file.extend(end.to_le_bytes());
        file.extend(1u32.to_le_bytes());
    }
    file.extend(b"PK\x05\x06\0\0\0\0");
    let short = |n: u64| if large { u32::MAX } else { n as u32 };
    file.extend((short(count) as u16).to_le_bytes());
    file.extend((short(count) as u16).to_le_bytes());
    file.extend(short(length).to_le_bytes());
    file.extend(short(start).to_le_bytes());
    file.extend([0; 2]);
    file
}

/// The entries of a checkpoint with this pickle and these storages.
pub fn entries(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<Entry> {
    let mut entries = vec![Entry::new("m/data.pkl", pickle), Entry::new("m/byteorder", b"little")];
    entries.extend(storages.iter().map(|(key, data)| Entry::new(&format!("m/data/{key}"), data)));
    entries.push(Entry::new("m/version", b"3\n"));
    entries
}

/// A checkpoint whose state_dict has the tensor "w", over storage "0" of 48 bytes that count up.
pub fn with_tensor(tensor: Vec<u8>) -> Vec<u8> {
    with_pickle(&pickle(&dict(&[("w", tensor)])))
}

/// A checkpoint with this pickle, and that storage.
pub fn with_pickle(pickle: &[u8]) -> Vec<u8> {
    let data: Vec<u8> = (0..48).collect();
    zip(&entries(pickle, &[("0", &data)]), false)
}
