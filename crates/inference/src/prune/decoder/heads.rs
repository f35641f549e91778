//! Heads of a decoder that can go so that a GGUF file still says all that is left: as many of each layer, and as many of each group of
//! heads of queries, which are those that share a head of keys and values.

use std::{borrow::Cow, path::Path};

use super::{to_bytes, to_numbers};
use crate::{
    LoadError,
    generate::Anatomy,
    gguf::{Change, Gguf},
    importance::least,
    prune::{
        at_most,
        parts::{some_columns, some_rows},
    },
};

/// llama.cpp reads this family's matrices of queries with as many rows as hidden states have columns, whatever heads there are.
const WITHOUT_A_WIDTH: &str = "qwen2";

/// The matrix that reads what heads gathered.
const OUTPUT: &str = "attn_output.weight";

/// How heads go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// So many of each group; heads of keys and values stay.
    OfEach(usize),
    /// So many whole groups, with their heads of keys and values.
    Groups(usize),
}

impl Way {
    /// How so many heads of queries go: evenly from all groups, if that can be, else in whole groups.
    ///
    /// # Errors
    /// Says why neither can be.
    pub(super) fn of(anatomy: &Anatomy, count: usize) -> Result<Self, String> {
        let (heads, groups, group) = (anatomy.heads, anatomy.key_heads, anatomy.group());
        if anatomy.architecture == WITHOUT_A_WIDTH {
            return Err(format!(
                "is a {WITHOUT_A_WIDTH}, whose files cannot say that there are fewer heads: llama.cpp reads its matrices of queries as \
                 wide as hidden states; --layers and --sparsity are possible"
            ));
        }
        match count {
            _ if count >= heads => Err(at_most(heads, "attention head")),
            _ if count.is_multiple_of(groups) => Ok(Self::OfEach(count / groups)),
            _ if count.is_multiple_of(group) => Ok(Self::Groups(count / group)),
            _ => Err(format!(
                "has {heads} attention heads in {groups} groups of {group}, and a file can only say of all groups that they lack as many \
                 (multiples of {groups}), or that there are fewer groups (multiples of {group}); {count} is neither"
            )),
        }
    }

    /// The heads of queries that go, of a layer whose heads are worth so much; ascending.
    pub(super) fn least(self, worth: &[f64], group: usize) -> Vec<usize> {
        match self {
            Self::OfEach(count) => {
                let of = |(index, worth): (usize, &[f64])| {
                    least(worth, count).into_iter().map(move |place| index * group + place)
                };
                worth.chunks_exact(group).enumerate().flat_map(of).collect()
            }
            Self::Groups(count) => {
                let worth: Vec<f64> = worth.chunks_exact(group).map(|worth| worth.iter().sum()).collect();
                least(&worth, count).into_iter().flat_map(|index| index * group..(index + 1) * group).collect()
            }
        }
    }

    /// How many heads of queries are left, and how many of keys.
    fn left(self, anatomy: &Anatomy) -> (usize, usize) {
        match self {
            Self::OfEach(count) => (anatomy.heads - count * anatomy.key_heads, anatomy.key_heads),
            Self::Groups(count) => (anatomy.heads - count * anatomy.group(), anatomy.key_heads - count),
        }
    }

    /// Whether what is left of matrices divides into the blocks that they are in.
    ///
    /// # Errors
    /// Names a tensor that does not.
    pub(super) fn check(self, gguf: &Gguf, anatomy: &Anatomy) -> Result<(), LoadError> {
        let columns = self.left(anatomy).0 * anatomy.head_width;
        let is_output = |name: &str| anatomy.place(name).is_some_and(|(_, part)| part == OUTPUT);
        let mut outputs = gguf.stored().into_iter().filter(|(name, ..)| is_output(name));
        match outputs.find(|(_, kind, _)| !columns.is_multiple_of(kind.block_size())) {
            Some((name, kind, _)) => {
                let block = kind.block_size();
                Err(gguf.wrong(format!(
                    "tensor {name:?} would have {columns} columns, no multiple of {block}, the blocks of {kind:?}; begin with the file \
                     of floats that it was made of"
                )))
            }
            None => Ok(()),
        }
    }
}

/// Writes all tensors, but of each layer those of these heads of queries, which go in this way, and what it says of heads. Parts of rows
/// that are no whole blocks are decoded and encoded again.
///
/// # Errors
/// When a tensor is not of whole heads, and when the file cannot be written.
pub(super) fn write_without_heads(
    gguf: &Gguf,
    anatomy: &Anatomy,
    way: Way,
    removed: &[Vec<usize>],
    lacks: &str,
    path: &Path,
) -> Result<(), LoadError> {
    let (heads, key_heads) = way.left(anatomy);
    let width = anatomy.head_width;
    let (stored, mut tensors) = (gguf.outlines(), gguf.outlines());
    let parts: Vec<_> = stored.iter().map(|tensor| Part::of(anatomy, &tensor.name)).collect();
    for (tensor, part) in tensors.iter_mut().zip(&parts) {
        match part {
            Part::Queries(_) => tensor.shape.to_mut()[0] = heads * width,
            Part::Keys(_) => tensor.shape.to_mut()[0] = key_heads * width,
            Part::Output(_) => tensor.shape.to_mut()[1] = heads * width,
            Part::Whole => {}
        }
    }
    let said = [
        ("attention.head_count", heads),
        ("attention.head_count_kv", key_heads),
        ("attention.key_length", width),
        ("attention.value_length", width),
        // Of those who do not ask for it, some take it from the width of hidden states.
        ("rope.dimension_count", width),
    ];
    let mut changes = said.map(|(key, number)| (anatomy.key(key), Change::Number(number as u32))).to_vec();
    changes.push(super::said(lacks));
    gguf.write_as(path, &changes, &tensors, |place| {
        let (tensor, bytes) = (&stored[place], gguf.bytes(&stored[place].name)?);
        let kept =
            |layer: &usize| (0..anatomy.heads).filter(|head| !removed[*layer].contains(head)).collect::<Vec<_>>();
        let cut = match &parts[place] {
            Part::Whole => return Ok(Cow::Borrowed(bytes)),
            Part::Queries(layer) => some_rows(bytes, anatomy.heads, &kept(layer)),
            Part::Keys(layer) => {
                let mut groups: Vec<_> = kept(layer).into_iter().map(|head| head / anatomy.group()).collect();
                groups.dedup();
                some_rows(bytes, anatomy.key_heads, &groups)
            }
            Part::Output(layer) if width.is_multiple_of(tensor.kind.block_size()) => {
                some_columns(bytes, anatomy.width, anatomy.heads, &kept(layer))
            }
            Part::Output(layer) => {
                let numbers = to_bytes(&gguf.numbers(&tensor.name, &tensor.shape)?);
                some_columns(&numbers, anatomy.width, anatomy.heads, &kept(layer))
                    .map(|numbers| gguf.encoded(to_numbers(&numbers), &tensors[place]))
                    .transpose()?
            }
        };
        let whole = || format!("tensor {:?} has shape {:?}, which is not of whole heads", tensor.name, tensor.shape);
        cut.map(Cow::Owned).ok_or_else(|| gguf.wrong(whole()))
    })
}

/// What of a tensor goes with heads; each with its layer.
enum Part {
    Whole,
    /// Rows of the matrix or numbers of the bias that make queries.
    Queries(usize),
    /// Those that make keys, or values.
    Keys(usize),
    /// Columns of the output's matrix.
    Output(usize),
}

impl Part {
    fn of(anatomy: &Anatomy, tensor: &str) -> Self {
        match anatomy.place(tensor) {
            Some((layer, "attn_q.weight" | "attn_q.bias")) => Self::Queries(layer),
            Some((layer, "attn_k.weight" | "attn_k.bias" | "attn_v.weight" | "attn_v.bias")) => Self::Keys(layer),
            Some((layer, OUTPUT)) => Self::Output(layer),
            _ => Self::Whole,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anatomy(architecture: &'static str, heads: usize, key_heads: usize) -> Anatomy {
        Anatomy { architecture, layers: 1, heads, key_heads, head_width: 4, width: 16 }
    }

    #[test]
    fn heads_go_evenly_or_in_whole_groups() {
        let way = |heads, key_heads, count| Way::of(&anatomy("llama", heads, key_heads), count);
        assert_eq!(way(14, 2, 4), Ok(Way::OfEach(2)));
        assert_eq!(way(14, 2, 7), Ok(Way::Groups(1)));
        assert_eq!((way(4, 4, 3), way(4, 1, 3)), (Ok(Way::Groups(3)), Ok(Way::OfEach(3))));
        let neither = way(14, 2, 3).expect_err("is neither");
        assert!(
            neither.contains("14 attention heads in 2 groups of 7") && neither.contains("3 is neither"),
            "{neither}"
        );
        assert!(way(4, 2, 4).expect_err("none is left").contains("at most 3 can be removed"));
        let refused = Way::of(&anatomy("qwen2", 14, 2), 2).expect_err("a family without a width");
        assert!(refused.contains("is a qwen2, whose files cannot say"), "{refused}");
    }

    #[test]
    fn the_least_of_each_group_go_or_the_least_groups() {
        let worth = [3.0, 1.0, 2.0, 0.5, 9.0, 0.1];
        assert_eq!(Way::OfEach(1).least(&worth, 3), [1, 5]);
        assert_eq!(Way::OfEach(2).least(&worth, 3), [1, 2, 3, 5]);
        assert_eq!(Way::Groups(1).least(&worth, 3), [0, 1, 2]);
        assert_eq!(Way::Groups(1).least(&worth, 2), [2, 3]);
    }
}
