//! Filters and sorts.
//!
//! Filters on top-level fields (equality, `$eq`, `$ne`, `$gt`, `$gte`, `$lt`, `$lte`, `$in`, `$exists`) and a sort by one
//! field. The rest of the query language is refused by name.

use std::cmp::Ordering;

use bson::{Bson, Document};

use super::call::{integer, truth};
use super::failure::CommandRefusal;

/// A parsed filter: all tests must hold.
#[derive(Debug)]
pub(super) struct Filter(Vec<(String, Test)>);

#[derive(Debug)]
enum Test {
    Equal(Bson),
    NotEqual(Bson),
    Ordered(Bson, &'static [Ordering]),
    In(Vec<Bson>),
    Exists(bool),
}

/// A sort by one field.
#[derive(Clone, Debug)]
pub(super) struct Sort {
    field: String,
    descending: bool,
}

impl Filter {
    pub(super) fn parse(filter: &Document) -> Result<Self, CommandRefusal> {
        let mut tests = Vec::new();
        for (field, value) in filter {
            if field.starts_with('$') || field.contains('.') {
                return Err(CommandRefusal::unsupported(format_args!("{field:?} in a filter")));
            }
            match value.as_document().filter(|value| value.keys().next().is_some_and(|key| key.starts_with('$'))) {
                Some(operators) => {
                    for (operator, operand) in operators {
                        tests.push((field.clone(), Test::parse(operator, operand)?));
                    }
                }
                None => tests.push((field.clone(), Test::Equal(value.clone()))),
            }
        }
        Ok(Self(tests))
    }

    pub(super) fn matches(&self, document: &Document) -> bool {
        self.0.iter().all(|(field, test)| test.holds(document.get(field)))
    }

    /// Returns the `_id` that a matching document must have, if the filter contains one.
    pub(super) fn id(&self) -> Option<&Bson> {
        self.0.iter().find_map(|(field, test)| match test {
            Test::Equal(value) if field == "_id" => Some(value),
            Test::Equal(_) | Test::NotEqual(_) | Test::Ordered(..) | Test::In(_) | Test::Exists(_) => None,
        })
    }

    /// Returns the initial fields of a document that an upsert with this filter inserts.
    pub(super) fn equalities(&self) -> Document {
        let equal = self.0.iter().filter_map(|(field, test)| match test {
            Test::Equal(value) => Some((field.clone(), value.clone())),
            Test::NotEqual(_) | Test::Ordered(..) | Test::In(_) | Test::Exists(_) => None,
        });
        equal.collect()
    }
}

impl Test {
    fn parse(operator: &str, operand: &Bson) -> Result<Self, CommandRefusal> {
        Ok(match operator {
            "$eq" => Self::Equal(operand.clone()),
            "$ne" => Self::NotEqual(operand.clone()),
            "$gt" => Self::Ordered(operand.clone(), &[Ordering::Greater]),
            "$gte" => Self::Ordered(operand.clone(), &[Ordering::Greater, Ordering::Equal]),
            "$lt" => Self::Ordered(operand.clone(), &[Ordering::Less]),
            "$lte" => Self::Ordered(operand.clone(), &[Ordering::Less, Ordering::Equal]),
            "$in" => Self::In(operand.as_array().ok_or_else(|| CommandRefusal::bad_value("$in needs an array"))?.clone()),
            "$exists" => Self::Exists(truth(operand)),
            _ => return Err(CommandRefusal::unsupported(format_args!("the operator {operator}"))),
        })
    }

    fn holds(&self, value: Option<&Bson>) -> bool {
        let found = value.unwrap_or(&Bson::Null);
        match self {
            Self::Equal(wanted) => equal_or_contains(found, wanted),
            Self::NotEqual(unwanted) => !equal_or_contains(found, unwanted),
            Self::Ordered(bound, orders) => rank(found) == rank(bound) && orders.contains(&compare(found, bound)),
            Self::In(wanted) => wanted.iter().any(|wanted| equal_or_contains(found, wanted)),
            Self::Exists(wanted) => value.is_some() == *wanted,
        }
    }
}

impl Sort {
    /// Parses a sort; `None` if it is empty.
    pub(super) fn parse(sort: &Document) -> Result<Option<Self>, CommandRefusal> {
        let mut fields = sort.iter();
        match (fields.next(), fields.next()) {
            (None, _) => Ok(None),
            (Some((field, direction)), None) if !field.contains('.') => match integer(direction) {
                Some(1) => Ok(Some(Self { field: field.clone(), descending: false })),
                Some(-1) => Ok(Some(Self { field: field.clone(), descending: true })),
                Some(_) | None => Err(CommandRefusal::bad_value("a sort's direction is 1 or -1")),
            },
            (Some(_), _) => Err(CommandRefusal::unsupported("a sort by several or nested fields")),
        }
    }

    pub(super) fn order(&self, left: &Document, right: &Document) -> Ordering {
        let missing = Bson::Null;
        let order = compare(left.get(&self.field).unwrap_or(&missing), right.get(&self.field).unwrap_or(&missing));
        if self.descending { order.reverse() } else { order }
    }
}

fn equal_or_contains(found: &Bson, wanted: &Bson) -> bool {
    same(found, wanted) || found.as_array().is_some_and(|values| values.iter().any(|value| same(value, wanted)))
}

fn same(left: &Bson, right: &Bson) -> bool {
    match number(left).zip(number(right)) {
        Some(_) => compare(left, right) == Ordering::Equal,
        None => left == right,
    }
}

/// Orders values: first by kind, then within the kind; values without an order of their own count as equal.
fn compare(left: &Bson, right: &Bson) -> Ordering {
    let within = || -> Option<Ordering> {
        if let (Some(left), Some(right)) = (integer(left), integer(right)) {
            return Some(left.cmp(&right));
        }
        if let (Some(left), Some(right)) = (number(left), number(right)) {
            return Some(left.total_cmp(&right));
        }
        if let (Some(left), Some(right)) = (left.as_str(), right.as_str()) {
            return Some(left.cmp(right));
        }
        if let (Some(left), Some(right)) = (left.as_object_id(), right.as_object_id()) {
            return Some(left.cmp(&right));
        }
        if let (Some(left), Some(right)) = (left.as_bool(), right.as_bool()) {
            return Some(left.cmp(&right));
        }
        if let (Bson::DateTime(left), Bson::DateTime(right)) = (left, right) {
            return Some(left.cmp(right));
        }
        let (left, right) = left.as_timestamp().zip(right.as_timestamp())?;
        Some((left.time, left.increment).cmp(&(right.time, right.increment)))
    };
    rank(left).cmp(&rank(right)).then_with(|| within().unwrap_or(Ordering::Equal))
}

fn number(value: &Bson) -> Option<f64> {
    let whole = value.as_i64().or_else(|| value.as_i32().map(i64::from));
    value.as_f64().or_else(|| whole.map(|whole| whole as f64))
}

/// The order of kinds (BSON types, "Comparison/Sort Order").
fn rank(value: &Bson) -> u8 {
    match value {
        Bson::MinKey => 0,
        Bson::Undefined | Bson::Null => 1,
        Bson::Double(_) | Bson::Int32(_) | Bson::Int64(_) | Bson::Decimal128(_) => 2,
        Bson::String(_) | Bson::Symbol(_) => 3,
        Bson::Document(_) => 4,
        Bson::Array(_) => 5,
        Bson::Binary(_) => 6,
        Bson::ObjectId(_) => 7,
        Bson::Boolean(_) => 8,
        Bson::DateTime(_) => 9,
        Bson::Timestamp(_) => 10,
        Bson::RegularExpression(_) | Bson::DbPointer(_) => 11,
        Bson::JavaScriptCode(_) | Bson::JavaScriptCodeWithScope(_) => 12,
        Bson::MaxKey => 13,
    }
}
