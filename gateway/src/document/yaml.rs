//! YAML 1.2 with the line of every value, anchors put in, `<<` merged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::{DEPTH_MAX, Error, Node, Value};

/// Values of one file with its anchors put in: twice what 10 MB hold. A few lines of anchors of anchors stand for more
/// than any memory.
const NODES_MAX: usize = 1_000_000;

/// Reads the first document of a text; what stands before the first error, and that.
pub(crate) fn parse(text: &str) -> (Node, Vec<Error>) {
    let mut builder = Builder::default();
    let mut error = None;
    for event in Parser::new_from_str(text) {
        let (event, span) = match event {
            Ok(event) => event,
            Err(wrong) => {
                error = Some((line(wrong.marker().line()), "not YAML".to_owned()));
                break;
            }
        };
        let end = event == Event::DocumentEnd;
        if let Err(wrong) = builder.take(event, span) {
            error = Some((line(span.start.line()), wrong.to_owned()));
        }
        if end || error.is_some() {
            break;
        }
    }
    while !builder.open.is_empty() {
        builder.close();
    }
    (builder.root.unwrap_or(Node::null()), error.into_iter().collect())
}

fn line(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

struct Open {
    node: Node,
    anchor: usize,
    /// Of a map: the name whose value comes next.
    name: Option<Arc<str>>,
    /// Its name or itself is marked `!ignore`.
    ignored: bool,
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
    anchors: BTreeMap<usize, Node>,
    names: BTreeSet<Arc<str>>,
    nodes: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), &'static str> {
        let line = line(span.start.line());
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                let null = plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = if null { Value::Null } else { Value::Scalar(text.into()) };
                self.put(Node { value, line }, anchor, ignored(tag.as_deref()))
            }
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned().ok_or("no such anchor")?;
                self.nodes = self.nodes.saturating_add(size(&node));
                self.put(node, 0, false)
            }
            Event::SequenceStart(anchor, tag) => {
                self.begin(Value::List(Vec::new()), line, anchor, ignored(tag.as_deref()))
            }
            Event::MappingStart(anchor, tag) => {
                self.begin(Value::Map(Vec::new()), line, anchor, ignored(tag.as_deref()))
            }
            Event::SequenceEnd | Event::MappingEnd => {
                self.close();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn begin(
        &mut self,
        value: Value,
        line: u32,
        anchor: usize,
        ignored: bool,
    ) -> Result<(), &'static str> {
        if self.open.len() >= DEPTH_MAX {
            return Err("values inside values have no end");
        }
        self.open.push(Open { node: Node { value, line }, anchor, name: None, ignored });
        Ok(())
    }

    fn close(&mut self) {
        let Some(mut open) = self.open.pop() else { return };
        // Most have one entry, and a vector begins with room for four.
        match &mut open.node.value {
            Value::Map(entries) => {
                merge(entries);
                entries.shrink_to_fit();
            }
            Value::List(items) => items.shrink_to_fit(),
            Value::Null | Value::Scalar(_) => {}
        }
        self.put(open.node, open.anchor, open.ignored).ok();
    }

    fn put(&mut self, node: Node, anchor: usize, ignored: bool) -> Result<(), &'static str> {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root.get_or_insert(node);
            return Ok(());
        };
        let is_name = matches!(open.node.value, Value::Map(_)) && open.name.is_none();
        self.nodes += usize::from(!is_name);
        if self.nodes > NODES_MAX {
            return Err("larger than this program reads");
        }
        match &mut open.node.value {
            Value::List(items) if !ignored => items.push(node),
            Value::Map(entries) => match open.name.take() {
                Some(name) => {
                    if !std::mem::take(&mut open.ignored) && !ignored {
                        entries.push((name, node));
                    }
                }
                None => {
                    let name = node.scalar().unwrap_or("");
                    let known = self.names.get(name).cloned();
                    let name: Arc<str> = known.unwrap_or_else(|| name.into());
                    self.names.insert(Arc::clone(&name));
                    open.name = Some(name);
                    open.ignored |= ignored;
                }
            },
            _ => {}
        }
        Ok(())
    }
}

/// Envoy does not look at what is so marked; it holds anchors.
fn ignored(tag: Option<&Tag>) -> bool {
    tag.is_some_and(|tag| tag.suffix == "ignore")
}

fn size(node: &Node) -> usize {
    1 + node.entries().iter().map(|(_, node)| size(node)).sum::<usize>()
        + match &node.value {
            Value::List(items) => items.iter().map(size).sum(),
            _ => 0,
        }
}

/// `<<: *base` gives the names that are not there.
fn merge(entries: &mut Vec<(Arc<str>, Node)>) {
    while let Some(at) = entries.iter().position(|(name, _)| &**name == "<<") {
        let (_, from) = entries.remove(at);
        for (name, node) in from.items().iter().flat_map(Node::entries) {
            if entries.iter().all(|(there, _)| there != name) {
                entries.push((Arc::clone(name), node.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_and_merges() {
        let (root, errors) = parse(
            "!ignore base: &base {a: 1, b: 2}\nx:\n  <<: *base\n  b: 3\ny: [*base, 'n\"']\n---\nz: 1\n",
        );
        assert_eq!((root.text("x.a"), root.text("x.b"), errors.len()), ("1", "3", 0));
        assert_eq!(root.list("y")[0].text("b"), "2");
        assert!(root.get("base").is_none() && root.get("z").is_none());
    }

    #[test]
    fn what_stands_before_an_error_is_kept() {
        let (root, errors) = parse("a:\n  - b: 1\n  - c: 2\nd: [\ne: }\n");
        assert_eq!(root.list("a")[1].text("c"), "2");
        assert_eq!(errors.len(), 1);
    }

    #[test]
    fn anchors_of_anchors_have_an_end() {
        let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for n in 1..12 {
            let ten = vec![format!("*a{}", n - 1); 10].join(",");
            text.push_str(&format!("a{n}: &a{n} [{ten}]\n"));
        }
        assert_eq!(parse(&text).1[0].1, "larger than this program reads");
    }

    #[test]
    fn blocks_of_text_and_empty_files() {
        let (root, _) = parse("a: |\n  one\n  two\nb: >-\n  x\n  y\nc: ~\n");
        assert_eq!((root.text("a"), root.text("b")), ("one\ntwo\n", "x y"));
        assert_eq!(parse("").0.value, Value::Null);
        assert_eq!(parse("# nothing\n").0.value, Value::Null);
    }
}
