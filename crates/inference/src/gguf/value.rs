//! What a GGUF header says of its model: numbers, texts and arrays of them.

use super::cursor::Cursor;

/// The longest text, in bytes; chat templates have some tens of thousands.
const LONGEST_TEXT: usize = 1 << 20;

/// The most elements of an array; vocabularies and their merges have some hundreds of thousands.
const MOST_ELEMENTS: usize = 1 << 20;

/// The number that says "array" among the kinds of values.
const ARRAY: u32 = 9;

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// An integer that is not negative, of any width.
    Unsigned(u64),
    /// A negative integer.
    Negative(i64),
    /// A float of either width.
    Float(f64),
    /// Yes or no.
    Flag(bool),
    /// A text.
    Text(String),
    /// Texts.
    Texts(Vec<String>),
    /// 32-bit integers.
    Integers(Vec<i64>),
    /// 32-bit floats.
    Floats(Vec<f32>),
    /// An array of a kind that no model here reads; what was in it was passed over.
    Passed,
}

impl Value {
    /// Reads one value and the number of its kind, which stands before it.
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self, String> {
        match cursor.number(u32::from_le_bytes)? {
            ARRAY => Self::read_array(cursor),
            kind => Self::read_one(cursor, kind),
        }
    }

    fn read_one(cursor: &mut Cursor<'_>, kind: u32) -> Result<Self, String> {
        let signed = |number: i64| u64::try_from(number).map_or(Self::Negative(number), Self::Unsigned);
        Ok(match kind {
            0 => Self::Unsigned(cursor.number(u8::from_le_bytes)?.into()),
            1 => signed(cursor.number(i8::from_le_bytes)?.into()),
            2 => Self::Unsigned(cursor.number(u16::from_le_bytes)?.into()),
            3 => signed(cursor.number(i16::from_le_bytes)?.into()),
            4 => Self::Unsigned(cursor.number(u32::from_le_bytes)?.into()),
            5 => signed(cursor.number(i32::from_le_bytes)?.into()),
            6 => Self::Float(cursor.number(f32::from_le_bytes)?.into()),
            7 => match cursor.number(u8::from_le_bytes)? {
                0 => Self::Flag(false),
                1 => Self::Flag(true),
                other => return Err(format!("a flag is {other}, neither 0 nor 1")),
            },
            8 => Self::Text(cursor.text(LONGEST_TEXT)?.to_owned()),
            10 => Self::Unsigned(cursor.number(u64::from_le_bytes)?),
            11 => signed(cursor.number(i64::from_le_bytes)?),
            12 => Self::Float(cursor.number(f64::from_le_bytes)?),
            other => return Err(format!("a value is of kind {other}, which does not exist")),
        })
    }

    fn read_array(cursor: &mut Cursor<'_>) -> Result<Self, String> {
        let kind = cursor.number(u32::from_le_bytes)?;
        let width = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            // A text has at least its length.
            8 | 10..=12 => 8,
            ARRAY => return Err("an array of arrays, which no model here reads".into()),
            other => return Err(format!("an array is of kind {other}, which does not exist")),
        };
        let length = cursor.count(MOST_ELEMENTS, "elements of an array")?;
        // Below 2^20 times 8: no overflow. Known before anything is allocated for them.
        if length * width > cursor.left() {
            return Err(format!("an array states {length} elements, more than the file holds"));
        }
        Ok(match kind {
            4 => Self::Integers(all(cursor, length, |cursor| Ok(cursor.number(u32::from_le_bytes)?.into()))?),
            5 => Self::Integers(all(cursor, length, |cursor| Ok(cursor.number(i32::from_le_bytes)?.into()))?),
            6 => Self::Floats(all(cursor, length, |cursor| cursor.number(f32::from_le_bytes))?),
            8 => Self::Texts(all(cursor, length, |cursor| Ok(cursor.text(LONGEST_TEXT)?.to_owned()))?),
            _ => {
                cursor.take(length * width)?;
                Self::Passed
            }
        })
    }

    /// What it is, for people.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Unsigned(_) | Self::Negative(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Flag(_) => "a flag",
            Self::Text(_) => "a text",
            Self::Texts(_) | Self::Integers(_) | Self::Floats(_) | Self::Passed => "an array",
        }
    }

    /// An integer that counts or names something.
    pub(crate) fn count(&self) -> Option<usize> {
        if let Self::Unsigned(count) = self { usize::try_from(*count).ok() } else { None }
    }

    /// A float.
    pub(crate) fn float(&self) -> Option<f64> {
        if let Self::Float(float) = self { Some(*float) } else { None }
    }

    /// Yes or no.
    pub(crate) fn flag(&self) -> Option<bool> {
        if let Self::Flag(flag) = self { Some(*flag) } else { None }
    }

    /// A text.
    pub(crate) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// Texts.
    pub(crate) fn texts(&self) -> Option<&[String]> {
        if let Self::Texts(texts) = self { Some(texts) } else { None }
    }

    /// 32-bit integers.
    pub(crate) fn integers(&self) -> Option<&[i64]> {
        if let Self::Integers(integers) = self { Some(integers) } else { None }
    }

    /// 32-bit floats.
    pub(crate) fn floats(&self) -> Option<&[f32]> {
        if let Self::Floats(floats) = self { Some(floats) } else { None }
    }
}

fn all<'a, T>(
    cursor: &mut Cursor<'a>,
    length: usize,
    read: impl Fn(&mut Cursor<'a>) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    (0..length).map(|_| read(cursor)).collect()
}
