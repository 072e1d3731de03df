//! What a terminal shows of the bytes that it is sent: as much of one as the program makes use of.

/// The lines of a terminal that is as long as need be.
pub(crate) struct Screen {
    columns: usize,
    lines: Vec<Vec<char>>,
    row: usize,
    column: usize,
    /// Lines that were longer than the terminal is wide, as far as they fit.
    pub(crate) wrapped: Vec<String>,
    /// Something was coloured.
    pub(crate) is_coloured: bool,
}

impl Screen {
    pub(crate) fn new(columns: usize) -> Self {
        Self { columns, lines: vec![Vec::new()], row: 0, column: 0, wrapped: Vec::new(), is_coloured: false }
    }

    pub(crate) fn of(columns: usize, bytes: &[u8]) -> Self {
        let mut screen = Self::new(columns);
        let text = String::from_utf8_lossy(bytes);
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            match c {
                '\x1b' => screen.escape(&mut rest),
                '\r' => screen.column = 0,
                '\n' => screen.down(1),
                // Cursor hidden, bell and the like.
                c if c.is_control() => {}
                c => screen.put(c),
            }
        }
        screen
    }

    /// `ESC [ numbers letter`.
    fn escape(&mut self, rest: &mut std::str::Chars<'_>) {
        let Some('[') = rest.next() else { return };
        let mut parameters = String::new();
        let letter = loop {
            match rest.next() {
                Some(c) if c.is_ascii_alphabetic() => break c,
                Some(c) => parameters.push(c),
                None => return,
            }
        };
        let number = parameters.parse().unwrap_or(1);
        match letter {
            'A' => self.row = self.row.saturating_sub(number),
            'B' => self.down(number),
            'C' => self.column += number,
            'D' => self.column = self.column.saturating_sub(number),
            'G' => self.column = number - 1,
            'K' if parameters == "2" => self.lines[self.row].clear(),
            'K' => self.lines[self.row].truncate(self.column),
            'J' => {
                self.lines[self.row].truncate(self.column);
                self.lines.truncate(self.row + 1);
            }
            'm' => self.is_coloured |= parameters != "0",
            _ => {}
        }
    }

    fn down(&mut self, lines: usize) {
        self.row += lines;
        while self.lines.len() <= self.row {
            self.lines.push(Vec::new());
        }
    }

    fn put(&mut self, c: char) {
        if self.column >= self.columns {
            // A line that was filled with blanks to the edge was ended that way on purpose.
            if self.lines[self.row].last() != Some(&' ') {
                self.wrapped.push(self.lines[self.row].iter().collect());
            }
            self.column = 0;
            self.down(1);
        }
        let line = &mut self.lines[self.row];
        while line.len() <= self.column {
            line.push(' ');
        }
        line[self.column] = c;
        self.column += 1;
    }

    /// All that is to be seen in the end, without blank ends of lines.
    pub(crate) fn text(&self) -> String {
        let line = |line: &Vec<char>| line.iter().collect::<String>().trim_end().to_owned();
        self.lines.iter().map(line).collect::<Vec<_>>().join("\n").trim_end().to_owned()
    }
}
