//! Ten handwritten digits to show, and how they are drawn.

/// One written digit, as the model `augur/digits` takes it.
pub(crate) struct Digit {
    /// Which digit it is.
    pub(crate) label: u8,
    rows: [&'static str; 8],
}

/// The first ten of the Optical Recognition of Handwritten Digits data (E. Alpaydin, C. Kaynak, 1998; UCI, CC BY 4.0;
/// <https://doi.org/10.24432/C50P49>). A character is one cell's ink: `.` for none, then `1` to `9` and `a` to `g` for 16.
#[rustfmt::skip]
pub(crate) const DIGITS: [Digit; 10] = [
    Digit { label: 0, rows: [
        "..5d91..",
        "..dfaf5.",
        ".3f2.b8.",
        ".4c..88.",
        ".58..98.",
        ".4b.1c7.",
        ".2e5ac..",
        "..6da...",
    ] },
    Digit { label: 1, rows: [
        "...cd5..",
        "...bg9..",
        "..3fg6..",
        ".7fgg2..",
        "..1gg3..",
        "..1gg6..",
        "..1gg6..",
        "...bga..",
    ] },
    Digit { label: 2, rows: [
        "...4fc..",
        "..3gfe..",
        "..8d8g..",
        "..16fb..",
        ".18df1..",
        ".9gg5...",
        ".3dggb5.",
        "...3bg9.",
    ] },
    Digit { label: 3, rows: [
        "..7fd1..",
        ".8d6f4..",
        ".21dd...",
        "..2fb1..",
        "...1cc1.",
        "....1a8.",
        "..845e9.",
        "..7dd9..",
    ] },
    Digit { label: 4, rows: [
        "...1b...",
        "...78...",
        "..1d622.",
        "..7f.98.",
        ".5ga.g6.",
        ".4fgdg1.",
        "...3fa..",
        "...2g4..",
    ] },
    Digit { label: 5, rows: [
        "..ca....",
        "..egge..",
        "..dgfa1.",
        "..bgg7..",
        "...47g7.",
        "....4g9.",
        "..54cg4.",
        "..9gga..",
    ] },
    Digit { label: 6, rows: [
        "...cd...",
        "..5g8...",
        "..dg3...",
        "..ed....",
        "..fc72..",
        "..dgdg3.",
        "..7gbf8.",
        "..19fb3.",
    ] },
    Digit { label: 7, rows: [
        "..78dgf1",
        "..774bc.",
        "....8d1.",
        ".488ff6.",
        ".2bff4..",
        "...g5...",
        "..9f1...",
        "..d5....",
    ] },
    Digit { label: 8, rows: [
        "..9e81..",
        "..ceec..",
        "..9a.f4.",
        "..3gce2.",
        "..4gg2..",
        ".3g8ad2.",
        ".1f13g8.",
        "..bgfb1.",
    ] },
    Digit { label: 9, rows: [
        "..bc....",
        ".2gggd..",
        ".3gcae..",
        ".1g1cf..",
        "..dg9f2.",
        "...3.9b.",
        "....9f4.",
        "..9cd3..",
    ] },
];

impl Digit {
    /// Its 64 cells, row by row, each 0 (empty) to 16 (full of ink).
    pub(crate) fn pixels(&self) -> Vec<u32> {
        self.rows.iter().flat_map(|row| row.chars()).map(|cell| cell.to_digit(17).unwrap_or(0)).collect()
    }

    /// Its picture, one line of blocks per row.
    pub(crate) fn picture(&self) -> Vec<String> {
        let shade = |ink: u32| match ink {
            0 => "  ",
            1..=4 => "░░",
            5..=8 => "▒▒",
            9..=12 => "▓▓",
            _ => "██",
        };
        self.pixels().chunks(8).map(|row| row.iter().map(|ink| shade(*ink)).collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_digit_has_64_cells_within_bounds_and_a_picture_of_8_rows() {
        for (expected, digit) in DIGITS.iter().enumerate() {
            assert_eq!(usize::from(digit.label), expected);
            assert!(digit.pixels().len() == 64 && digit.pixels().iter().all(|ink| *ink <= 16));
            assert!(digit.picture().len() == 8 && digit.picture().iter().all(|row| row.chars().count() == 16));
        }
        assert_eq!(&DIGITS[0].pixels()[..8], [0, 0, 5, 13, 9, 1, 0, 0]);
    }
}
