//! Formulas over named inputs: `3600 * moves / allocated_s`.
//!
//! Grammar: numbers, input names, `+ - * /`, unary minus, parentheses, `min(a, b, ...)`, `max(a, b, ...)`, `abs(a)`.
//! Text, nesting and size are bounded. Pure; a wrong formula is an error, never a panic.

use super::unit::Unit;

/// Longest formula, in bytes.
const TEXT_BYTES_MAX: usize = 500;
/// Deepest nesting of parentheses, calls and minus signs.
const DEPTH_MAX: usize = 32;

/// A text that is no formula.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormulaError {
    /// More text than is read.
    #[error("the formula is longer than {TEXT_BYTES_MAX} bytes")]
    TooLong,
    /// More nesting than is read.
    #[error("the formula nests deeper than {DEPTH_MAX} levels at column {0}")]
    TooDeep(usize),
    /// Something else stands where the grammar wants an operand, an operator, a comma or a parenthesis.
    #[error("`{found}` at column {column}, where {expected} is due")]
    Unexpected {
        /// 1-based column, in characters.
        column: usize,
        /// What stands there.
        found: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A call of something that is no function.
    #[error("`{name}` at column {column} is no function; there are min, max and abs")]
    UnknownFunction {
        /// 1-based column, in characters.
        column: usize,
        /// The name called.
        name: String,
    },
    /// A function with a wrong number of arguments.
    #[error("{name} takes {wanted}, not {given} arguments")]
    Arguments {
        /// The function.
        name: &'static str,
        /// How many it takes.
        wanted: &'static str,
        /// How many it was given.
        given: usize,
    },
}

/// A parsed formula.
#[derive(Clone, Debug, PartialEq)]
pub struct Formula {
    root: Node,
    names: Vec<String>,
}

/// What a formula comes to; each part is `None` where an input is missing, a divisor is zero or the result not finite.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The formula's value.
    pub value: Option<f64>,
    /// What is divided where the formula is a division, else the value.
    pub numerator: Option<f64>,
    /// What it is divided by; `None` where the formula is no division.
    pub denominator: Option<f64>,
}

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Number(f64),
    Input(usize),
    Negate(Box<Node>),
    Binary(Operator, Box<Node>, Box<Node>),
    Call(Function, Vec<Node>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Min,
    Max,
    Abs,
}

impl Function {
    const fn label(self) -> &'static str {
        match self {
            Self::Min => "min",
            Self::Max => "max",
            Self::Abs => "abs",
        }
    }
}

impl Formula {
    /// Reads a formula.
    ///
    /// # Errors
    /// [`FormulaError`] with the column of the first fault.
    pub fn parse(text: &str) -> Result<Self, FormulaError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(FormulaError::TooLong);
        }
        let mut parser = Parser { tokens: tokens(text)?, at: 0, names: Vec::new() };
        let root = parser.expression(0, 0)?;
        match parser.peek() {
            Token::End => Ok(Self { root, names: parser.names }),
            _ => Err(parser.unexpected("an operator or the end")),
        }
    }

    /// Names of the inputs, each once, in order of appearance; the order of the values that [`Formula::evaluate`] takes.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Computes the formula; `inputs` are in order of [`Formula::names`].
    #[must_use]
    pub fn evaluate(&self, inputs: &[Option<f64>]) -> Outcome {
        let value = evaluate(&self.root, inputs);
        match &self.root {
            Node::Binary(Operator::Divide, above, below) => {
                Outcome { value, numerator: evaluate(above, inputs), denominator: evaluate(below, inputs) }
            }
            _ => Outcome { value, numerator: value, denominator: None },
        }
    }

    /// The unit of the result; `inputs` are in order of [`Formula::names`]. Numbers convert units: a hundred times a ratio is in percent.
    ///
    /// # Errors
    /// A sentence on what does not fit together.
    pub fn unit(&self, inputs: &[Unit]) -> Result<Unit, String> {
        match measure(&self.root, inputs)? {
            Measure::Number(_) => Ok(Unit::ONE),
            Measure::Quantity(unit) => Ok(unit),
        }
    }
}

fn evaluate(node: &Node, inputs: &[Option<f64>]) -> Option<f64> {
    let value = match node {
        Node::Number(number) => *number,
        Node::Input(index) => inputs.get(*index).copied().flatten()?,
        Node::Negate(operand) => -evaluate(operand, inputs)?,
        Node::Binary(operator, left, right) => {
            let (left, right) = (evaluate(left, inputs)?, evaluate(right, inputs)?);
            match operator {
                Operator::Add => left + right,
                Operator::Subtract => left - right,
                Operator::Multiply => left * right,
                Operator::Divide => left / right,
            }
        }
        Node::Call(function, arguments) => {
            let values = arguments.iter().map(|argument| evaluate(argument, inputs));
            values
                .reduce(|a, b| Some(if *function == Function::Min { a?.min(b?) } else { a?.max(b?) }))
                .flatten()
                .map(|value| if *function == Function::Abs { value.abs() } else { value })?
        }
    };
    value.is_finite().then_some(value)
}

/// What a part of a formula measures.
#[derive(Clone, Copy, Debug)]
enum Measure {
    /// A number of the formula's text, which converts units when it multiplies or divides.
    Number(f64),
    Quantity(Unit),
}

fn measure(node: &Node, inputs: &[Unit]) -> Result<Measure, String> {
    match node {
        Node::Number(number) => Ok(Measure::Number(*number)),
        Node::Input(index) => Ok(Measure::Quantity(inputs.get(*index).copied().unwrap_or(Unit::ONE))),
        Node::Negate(operand) => Ok(match measure(operand, inputs)? {
            Measure::Number(number) => Measure::Number(-number),
            quantity @ Measure::Quantity(_) => quantity,
        }),
        Node::Binary(operator, left, right) => {
            let (left, right) = (measure(left, inputs)?, measure(right, inputs)?);
            match operator {
                Operator::Add => {
                    alike(left, right, "add").map(|sum| sum.unwrap_or_else(|(a, b)| Measure::Number(a + b)))
                }
                Operator::Subtract => {
                    alike(left, right, "subtract").map(|sum| sum.unwrap_or_else(|(a, b)| Measure::Number(a - b)))
                }
                Operator::Multiply => multiply(left, right),
                Operator::Divide => divide(left, right),
            }
        }
        Node::Call(function, arguments) => {
            let mut result = None;
            for argument in arguments {
                let next = measure(argument, inputs)?;
                result = Some(match result {
                    None => next,
                    Some(before) => alike(before, next, "compare")?.unwrap_or_else(|(a, b)| {
                        Measure::Number(if *function == Function::Min { a.min(b) } else { a.max(b) })
                    }),
                });
            }
            Ok(match result {
                Some(Measure::Number(number)) if *function == Function::Abs => Measure::Number(number.abs()),
                Some(measure) => measure,
                None => Measure::Number(0.0),
            })
        }
    }
}

/// The unit of a sum or a choice, or both numbers where there are only numbers.
fn alike(left: Measure, right: Measure, verb: &str) -> Result<Result<Measure, (f64, f64)>, String> {
    let (a, b) = match (left, right) {
        (Measure::Number(a), Measure::Number(b)) => return Ok(Err((a, b))),
        // Nothing is nothing in every unit.
        (Measure::Number(0.0), unit @ Measure::Quantity(_)) | (unit @ Measure::Quantity(_), Measure::Number(0.0)) => {
            return Ok(Ok(unit));
        }
        (Measure::Number(_), Measure::Quantity(unit)) => (Unit::ONE, unit),
        (Measure::Quantity(unit), Measure::Number(_)) => (unit, Unit::ONE),
        (Measure::Quantity(a), Measure::Quantity(b)) => (a, b),
    };
    if a.is_same_as(&b) {
        Ok(Ok(Measure::Quantity(a)))
    } else if a.is_comparable_to(&b) {
        Err(format!("cannot {verb} {a} and {b}: multiply the second by {} first", b.factor_to(&a)))
    } else {
        Err(format!("cannot {verb} {a} and {b}: they measure different things"))
    }
}

fn multiply(left: Measure, right: Measure) -> Result<Measure, String> {
    match (left, right) {
        (Measure::Number(a), Measure::Number(b)) => Ok(Measure::Number(a * b)),
        (Measure::Number(number), Measure::Quantity(unit)) | (Measure::Quantity(unit), Measure::Number(number)) => {
            Ok(Measure::Quantity(unit.scaled_by(conversion(number)?)))
        }
        (Measure::Quantity(a), Measure::Quantity(b)) => quantity(a.times(b)),
    }
}

fn divide(left: Measure, right: Measure) -> Result<Measure, String> {
    match (left, right) {
        (Measure::Number(a), Measure::Number(b)) => Ok(Measure::Number(a / conversion(b)?)),
        (Measure::Number(number), Measure::Quantity(unit)) => {
            quantity(Unit::ONE.per(unit).scaled_by(conversion(number)?))
        }
        (Measure::Quantity(unit), Measure::Number(number)) => quantity(unit.scaled_by(1.0 / conversion(number)?)),
        (Measure::Quantity(a), Measure::Quantity(b)) => quantity(a.per(b)),
    }
}

fn quantity(unit: Unit) -> Result<Measure, String> {
    if unit.factor_to(&Unit::ONE).is_normal() {
        Ok(Measure::Quantity(unit))
    } else {
        Err("the formula's numbers are too large or too small".to_owned())
    }
}

fn conversion(number: f64) -> Result<f64, String> {
    if number.is_normal() {
        Ok(number)
    } else {
        Err(format!("multiplying or dividing by {number} leaves nothing to measure"))
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Number(f64),
    Name(String),
    Symbol(char),
    End,
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    at: usize,
    names: Vec<String>,
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.at].1
    }

    fn column(&self) -> usize {
        self.tokens[self.at].0
    }

    fn advance(&mut self) -> Token {
        let token = self.tokens[self.at].1.clone();
        // The last token is `End`, which nothing passes.
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn unexpected(&self, expected: &'static str) -> FormulaError {
        let found = match self.peek() {
            Token::Number(number) => number.to_string(),
            Token::Name(name) => name.clone(),
            Token::Symbol(symbol) => symbol.to_string(),
            Token::End => "end of formula".to_owned(),
        };
        FormulaError::Unexpected { column: self.column(), found, expected }
    }

    /// Operators that bind tighter than `binding`, by precedence climbing (Pratt 1973).
    fn expression(&mut self, binding: u8, depth: usize) -> Result<Node, FormulaError> {
        if depth > DEPTH_MAX {
            return Err(FormulaError::TooDeep(self.column()));
        }
        let mut left = self.operand(depth)?;
        loop {
            let (operator, strength) = match self.peek() {
                Token::Symbol('+') => (Operator::Add, 1),
                Token::Symbol('-') => (Operator::Subtract, 1),
                Token::Symbol('*') => (Operator::Multiply, 2),
                Token::Symbol('/') => (Operator::Divide, 2),
                _ => return Ok(left),
            };
            if strength <= binding {
                return Ok(left);
            }
            self.advance();
            let right = self.expression(strength, depth + 1)?;
            left = Node::Binary(operator, Box::new(left), Box::new(right));
        }
    }

    fn operand(&mut self, depth: usize) -> Result<Node, FormulaError> {
        let column = self.column();
        match self.peek().clone() {
            Token::Number(number) => {
                self.advance();
                Ok(Node::Number(number))
            }
            Token::Name(name) => {
                self.advance();
                if *self.peek() == Token::Symbol('(') { self.call(&name, column, depth) } else { Ok(self.input(name)) }
            }
            Token::Symbol('-') => {
                self.advance();
                Ok(Node::Negate(Box::new(self.expression(3, depth + 1)?)))
            }
            Token::Symbol('(') => {
                self.advance();
                let inner = self.expression(0, depth + 1)?;
                self.close()?;
                Ok(inner)
            }
            _ => Err(self.unexpected("a number, an input, a function, - or (")),
        }
    }

    fn input(&mut self, name: String) -> Node {
        let known = self.names.iter().position(|known| *known == name);
        Node::Input(known.unwrap_or_else(|| {
            self.names.push(name);
            self.names.len() - 1
        }))
    }

    fn call(&mut self, name: &str, column: usize, depth: usize) -> Result<Node, FormulaError> {
        let function = [Function::Min, Function::Max, Function::Abs]
            .into_iter()
            .find(|function| function.label() == name)
            .ok_or_else(|| FormulaError::UnknownFunction { column, name: name.to_owned() })?;
        self.advance();
        let mut arguments = vec![self.expression(0, depth + 1)?];
        while *self.peek() == Token::Symbol(',') {
            self.advance();
            arguments.push(self.expression(0, depth + 1)?);
        }
        self.close()?;
        let given = arguments.len();
        match function {
            Function::Abs if given != 1 => Err(FormulaError::Arguments { name: "abs", wanted: "one", given }),
            Function::Min | Function::Max if given < 2 => {
                Err(FormulaError::Arguments { name: function.label(), wanted: "two or more", given })
            }
            _ => Ok(Node::Call(function, arguments)),
        }
    }

    fn close(&mut self) -> Result<(), FormulaError> {
        if *self.peek() == Token::Symbol(')') {
            self.advance();
            Ok(())
        } else {
            Err(self.unexpected("an operator, a comma or )"))
        }
    }
}

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, FormulaError> {
    let characters: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&character) = characters.get(at) {
        let column = at + 1;
        let rest = &characters[at..];
        let token = match character {
            ' ' | '\t' | '\n' | '\r' => {
                at += 1;
                continue;
            }
            '+' | '-' | '*' | '/' | '(' | ')' | ',' => {
                at += 1;
                Token::Symbol(character)
            }
            '0'..='9' | '.' => {
                let number: String = rest[..number_length(rest)].iter().collect();
                at += number.len();
                let value = number.parse::<f64>().ok().filter(|value| value.is_finite());
                Token::Number(value.ok_or(FormulaError::Unexpected { column, found: number, expected: "a number" })?)
            }
            'a'..='z' | 'A'..='Z' | '_' => {
                let name: String = rest.iter().take_while(|c| c.is_ascii_alphanumeric() || **c == '_').collect();
                at += name.len();
                Token::Name(name)
            }
            _ => {
                let expected = "a number, an input, an operator or a parenthesis";
                return Err(FormulaError::Unexpected { column, found: character.to_string(), expected });
            }
        };
        tokens.push((column, token));
    }
    tokens.push((characters.len() + 1, Token::End));
    Ok(tokens)
}

/// Characters of the number at the front: digits, a point, an exponent.
fn number_length(text: &[char]) -> usize {
    let mut length = text.iter().take_while(|c| c.is_ascii_digit() || **c == '.').count();
    if matches!(text.get(length), Some('e' | 'E')) {
        let sign = usize::from(matches!(text.get(length + 1), Some('+' | '-')));
        let digits = text[length + 1 + sign..].iter().take_while(|c| c.is_ascii_digit()).count();
        if digits > 0 {
            length += 1 + sign + digits;
        }
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formula(text: &str) -> Formula {
        Formula::parse(text).expect("a formula")
    }

    fn value(text: &str, inputs: &[f64]) -> Option<f64> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        formula(text).evaluate(&inputs).value
    }

    fn unit(text: &str, units: &[&str]) -> Result<String, String> {
        let units: Vec<_> = units.iter().map(|unit| Unit::parse(unit).expect("a unit")).collect();
        formula(text).unit(&units).map(|unit| unit.to_string())
    }

    #[test]
    fn operators_bind_as_in_school_and_associate_to_the_left() {
        assert_eq!(value("a - b - c", &[10.0, 3.0, 2.0]), Some(5.0));
        assert_eq!(value("a / b / c", &[100.0, 5.0, 2.0]), Some(10.0));
        assert_eq!(value("a + b * c", &[1.0, 2.0, 3.0]), Some(7.0));
        assert_eq!(value("-a * b + c", &[2.0, 3.0, 1.0]), Some(-5.0));
        assert_eq!(value("2 * -(a + b)", &[2.0, 3.0]), Some(-10.0));
        assert_eq!(value("max(0, a - 27) + abs(-1.5e1) + min(a, 3, 2)", &[30.0]), Some(20.0));
    }

    #[test]
    fn an_input_that_is_named_twice_is_one_input() {
        let formula = formula("a / (a + b)");
        assert_eq!(formula.names(), ["a", "b"]);
        assert_eq!(formula.evaluate(&[Some(1.0), Some(3.0)]).value, Some(0.25));
    }

    #[test]
    fn a_division_at_the_root_gives_both_sides() {
        let outcome = formula("100 * in_use / built").evaluate(&[Some(3.0), Some(4.0)]);
        assert_eq!(outcome, Outcome { value: Some(75.0), numerator: Some(300.0), denominator: Some(4.0) });
        let outcome = formula("100 * (in_use / built)").evaluate(&[Some(3.0), Some(4.0)]);
        assert_eq!(outcome, Outcome { value: Some(75.0), numerator: Some(75.0), denominator: None });
    }

    #[test]
    fn a_zero_divisor_and_a_missing_input_are_null_not_zero() {
        let idle = formula("moves / allocated").evaluate(&[Some(0.0), Some(0.0)]);
        assert_eq!(idle, Outcome { value: None, numerator: Some(0.0), denominator: Some(0.0) });
        let half = formula("total / it").evaluate(&[Some(5.0), None]);
        assert_eq!(half, Outcome { value: None, numerator: Some(5.0), denominator: None });
        assert_eq!(value("a * a", &[1e200]), None);
        assert_eq!(formula("max(a, b)").evaluate(&[Some(1.0), None]).value, None);
    }

    #[test]
    fn numbers_convert_units() {
        assert_eq!(unit("100 * in_use / built", &["1", "1"]), Ok("%".to_owned()));
        assert_eq!(unit("3600 * moves / allocated_s", &["moves", "s"]), Ok("moves/h".to_owned()));
        assert_eq!(unit("1000 * kbit / (3600000 * kwh)", &["kbit", "kWh"]), Ok("bit/J".to_owned()));
        assert_eq!(unit("stations / (population / 10000)", &["1", "1"]), Ok("0.0001".to_owned()));
        assert_eq!(unit("100 * (1 - a / b)", &["kWh", "kWh"]), Ok("%".to_owned()));
        assert_eq!(unit("max(0, a)", &["kW"]), Ok("kW".to_owned()));
        assert_eq!(unit("60 * 60", &[]), Ok("1".to_owned()));
    }

    #[test]
    fn sums_of_different_units_are_refused_with_what_would_be_right() {
        let scales = unit("a + b", &["kWh", "MWh"]).expect_err("different scales");
        assert_eq!(scales, "cannot add kWh and MWh: multiply the second by 1000 first");
        assert!(unit("a - b", &["kWh", "C"]).expect_err("different things").contains("different things"));
        assert!(unit("a + 1", &["kWh"]).is_err());
        assert!(unit("0 * a", &["kWh"]).is_err());
        assert!(unit("a / 0", &["kWh"]).is_err());
    }

    #[test]
    fn faults_are_located() {
        let message = |text: &str| Formula::parse(text).expect_err("a fault").to_string();
        assert_eq!(
            message("a + "),
            "`end of formula` at column 5, where a number, an input, a function, - or ( is due"
        );
        assert_eq!(message("a b"), "`b` at column 3, where an operator or the end is due");
        assert_eq!(message("a ^ 2"), "`^` at column 3, where a number, an input, an operator or a parenthesis is due");
        assert_eq!(message("sqrt(a)"), "`sqrt` at column 1 is no function; there are min, max and abs");
        assert_eq!(message("1.2.3 * a"), "`1.2.3` at column 1, where a number is due");
        assert_eq!(message("min(a)"), "min takes two or more, not 1 arguments");
        assert!(message(&"(".repeat(100)).contains("nests deeper"));
        assert!(message(&"a+".repeat(300)).contains("longer than"));
    }

    #[test]
    fn the_longest_chain_is_computed() {
        let chain = format!("{}a", "a+".repeat(TEXT_BYTES_MAX / 2 - 1));
        assert_eq!(value(&chain, &[1.0]), Some(250.0));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "[ -~é]{0,60}|[a-c0-9.+*/() ,e-]{0,80}|(min|max|abs|[(),*/+-]|a|2){0,60}") {
            if let Ok(formula) = Formula::parse(&text) {
                let inputs = vec![Some(2.0); formula.names().len()];
                if let Some(value) = formula.evaluate(&inputs).value {
                    proptest::prop_assert!(value.is_finite());
                }
                let _ = formula.unit(&vec![Unit::MINUTE; formula.names().len()]);
            }
        }

        #[test]
        fn a_ratio_of_sums_does_not_depend_on_the_unit_chosen(a in 1e-3f64..1e6, b in 1e-3f64..1e6) {
            let (plain, percent) = (value("a / b", &[a, b]).expect("a value"), value("100 * a / b", &[a, b]).expect("a value"));
            proptest::prop_assert!((plain * 100.0 - percent).abs() <= 1e-12 * percent.abs());
        }
    }
}
