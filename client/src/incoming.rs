//! Puts the messages of a load together. Checks their order and number; `table` checks their content.

use std::collections::VecDeque;

use weightsd_proto::v1::{Component, LoadComponentResponse, Notice, Progress, Tensor, load_component_response::Event};

use crate::ProtocolError;

/// Most tensors to reserve room for on the daemon's word. The list grows beyond it as they arrive.
const TRUSTED_COUNT: usize = 1 << 16;

/// A component that is coming in: progress, then the component, then its tensors in pages, then notices.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    component: Option<Component>,
    tensors: Vec<Tensor>,
    notices: VecDeque<Notice>,
}

/// A component with all its tensors. Its content is still unchecked.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) component: Component,
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) notices: VecDeque<Notice>,
}

impl Incoming {
    /// Takes one message of the stream. Returns the progress in it, if any.
    pub(crate) fn accept(&mut self, message: LoadComponentResponse) -> Result<Option<Progress>, ProtocolError> {
        match message.event {
            Some(Event::Progress(progress)) => return Ok(Some(progress)),
            Some(Event::Component(_)) if self.component.is_some() => return Err(ProtocolError::SecondComponent),
            Some(Event::Component(component)) => {
                self.tensors.reserve(in_pages(&component).min(TRUSTED_COUNT));
                self.component = Some(component);
            }
            Some(Event::Page(page)) => {
                let component = self.component.as_ref().ok_or(ProtocolError::EarlyPage)?;
                let (expected, found) = (component.tensor_count, self.tensors.len() + page.tensors.len());
                if found > in_pages(component) {
                    return Err(ProtocolError::TensorCount { expected, found });
                }
                if self.tensors.is_empty() {
                    self.tensors = page.tensors;
                } else {
                    self.tensors.extend(page.tensors);
                }
            }
            Some(Event::Notice(notice)) => self.notices.push_back(notice),
            // A kind of message that a later version of the daemon may send.
            None => {}
        }
        Ok(None)
    }

    /// Whether the component has come; its tensors may be on their way.
    pub(crate) fn has_component(&self) -> bool {
        self.component.is_some()
    }

    /// The component, once it has come.
    pub(crate) fn component(&self) -> Result<&Component, ProtocolError> {
        self.component.as_ref().ok_or(ProtocolError::NoComponent)
    }

    /// Whether nothing is missing.
    pub(crate) fn is_complete(&self) -> bool {
        self.component.as_ref().is_some_and(|component| self.tensors.len() == in_pages(component))
    }

    /// The whole component, or an error that says what is missing.
    pub(crate) fn finish(self) -> Result<Received, ProtocolError> {
        let component = self.component.ok_or(ProtocolError::NoComponent)?;
        let (expected, found) = (component.tensor_count, self.tensors.len());
        if found != in_pages(&component) {
            return Err(ProtocolError::TensorCount { expected, found });
        }
        Ok(Received { component, tensors: self.tensors, notices: self.notices })
    }
}

/// How many tensors come in pages.
fn in_pages(component: &Component) -> usize {
    if component.sheet_bytes > 0 { 0 } else { component.tensor_count as usize }
}

#[cfg(test)]
mod tests {
    use weightsd_proto::v1::TensorPage;

    use super::*;

    fn message(event: Event) -> LoadComponentResponse {
        LoadComponentResponse { event: Some(event) }
    }

    fn component(tensor_count: u32) -> LoadComponentResponse {
        message(Event::Component(Component { tensor_count, ..Component::default() }))
    }

    fn page(count: usize) -> LoadComponentResponse {
        message(Event::Page(TensorPage { tensors: vec![Tensor::default(); count] }))
    }

    fn run(messages: Vec<LoadComponentResponse>) -> Result<Received, ProtocolError> {
        let mut incoming = Incoming::default();
        for message in messages {
            incoming.accept(message)?;
        }
        incoming.finish()
    }

    #[test]
    fn pages_add_up() {
        let progress = message(Event::Progress(Progress::default()));
        let notice = message(Event::Notice(Notice::default()));
        let unknown = LoadComponentResponse { event: None };
        let done = run(vec![progress, component(3), page(1), unknown, notice, page(0), page(2)]).unwrap();
        assert_eq!((done.tensors.len(), done.notices.len()), (3, 1));
        assert_eq!(run(vec![component(0)]).unwrap().tensors.len(), 0);
        let in_a_sheet =
            || message(Event::Component(Component { tensor_count: 3, sheet_bytes: 8, ..Component::default() }));
        assert_eq!(run(vec![in_a_sheet()]).unwrap().tensors.len(), 0);
        run(vec![in_a_sheet(), page(1)]).unwrap_err();
    }

    #[test]
    fn lies_are_told_apart() {
        let count = |expected, found| ProtocolError::TensorCount { expected, found };
        let table = [
            (vec![], ProtocolError::NoComponent),
            (vec![page(1)], ProtocolError::EarlyPage),
            (vec![component(0), component(0)], ProtocolError::SecondComponent),
            (vec![component(2), page(1)], count(2, 1)),
            (vec![component(2), page(1), page(2)], count(2, 3)),
            (vec![component(u32::MAX), page(1)], count(u32::MAX, 1)),
        ];
        for (messages, expected) in table {
            assert_eq!(run(messages).unwrap_err(), expected);
        }
    }
}
