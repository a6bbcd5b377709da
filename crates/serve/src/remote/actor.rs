//! A server's policy as an actor.

use super::form::{Asking, RequestForm};
use super::link::{Address, Link, request};
use super::modalities;
use super::replies::{self, Flaw, Given};
use crate::options::Noise;
use crate::wire::{Writer, read};
use crate::{Error, Result};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use steadyhand_gr00t::Observation;
use steadyhand_gr00t::processor::EmbodimentModalities;
use steadyhand_gr00t::session::rollout::Prepare;
use steadyhand_gr00t::session::{Acted, Actor, NoiseSource};

/// The endpoints that are asked.
const MODALITIES: &str = "get_modality_config";
const PING: &str = "ping";
const RESET: &str = "reset";
const ACT: &str = "get_action";

/// How a server is asked.
#[derive(Debug, Clone)]
pub struct Access {
    /// What it asks for.
    pub api_token: Option<String>,
    /// Which of its models is asked; the one that it has for everyone otherwise.
    pub model: Option<String>,
    /// How long a reply is waited for.
    pub patience: Duration,
}

impl Default for Access {
    /// No token, no model, a minute.
    fn default() -> Self {
        Access { api_token: None, model: None, patience: Duration::from_secs(60) }
    }
}

/// A policy that a server has.
pub struct Remote {
    link: Link,
    model: Option<Arc<str>>,
    server: String,
    modalities: EmbodimentModalities,
    /// The way in which the server takes observations, once one was taken.
    form: Arc<Mutex<Option<RequestForm>>>,
    /// Widths of the groups, once there were actions.
    widths: Vec<usize>,
}

/// A request on the way to a server.
pub struct Ready {
    noise: Noise,
    form: RequestForm,
    request: Vec<u8>,
}

impl Remote {
    /// Connects and asks what the policy observes and does. Where a `checkpoint` is said to be served, the server must say
    /// the same; one that has no `get_modality_config` is taken by its word.
    ///
    /// # Errors
    /// No server of the protocol; another token; other modalities than the checkpoint's, by field.
    pub fn open(address: Address, access: Access, checkpoint: Option<&EmbodimentModalities>) -> Result<Self> {
        let Access { api_token, model, patience } = access;
        let model: Option<Arc<str>> = model.map(Arc::from);
        let mut link = Link::open(address, api_token, patience)?;
        let server = link.server();
        let asked = request(MODALITIES, link.api_token(), |data| options(data, model.as_deref(), &[]));
        let asked = link.ask(MODALITIES, &asked);
        let modalities = match (asked, checkpoint) {
            (Ok(reply), checkpoint) => {
                let flaw = |(field, what)| Error::Reply {
                    server: server.clone(),
                    endpoint: MODALITIES,
                    field,
                    what,
                };
                let value = read(&reply).map_err(|error| flaw(("reply".to_owned(), error.to_string())))?;
                let found = modalities::read(&value).map_err(flaw)?;
                if let Some((field, expected, other)) =
                    checkpoint.and_then(|checkpoint| modalities::difference(checkpoint, &found))
                {
                    return Err(flaw((
                        field,
                        format!("expected {expected} as the checkpoint has, found {other}"),
                    )));
                }
                found
            }
            (Err(Error::Answered { error, .. }), Some(checkpoint)) if !of_token(&error) => checkpoint.clone(),
            (Err(error), _) => return Err(with_hint(error)),
        };
        Ok(Remote { link, model, server, modalities, form: Arc::default(), widths: Vec::new() })
    }

    /// The episode at hand is over, and this one begins: what the server keeps of the one before is let go.
    ///
    /// # Errors
    /// The server cannot be reached or refuses.
    pub fn reset(&mut self, episode: u32) -> Result<()> {
        let request = request(RESET, self.link.api_token(), |data| {
            // The second for the official policy that replays a dataset's actions.
            let episode = ["episode", "episode_index"].map(|key| (key, u64::from(episode)));
            options(data, self.model.as_deref(), &episode);
        });
        self.link.ask(RESET, &request).map(drop).map_err(with_hint)
    }

    /// The number formats that the server says it runs at, as
    /// [`PrecisionPolicy::identity`](steadyhand_gr00t::precision::PrecisionPolicy::identity) gives them, and their name;
    /// only one of ours does.
    ///
    /// # Errors
    /// The server cannot be reached or refuses.
    pub fn precision(&mut self) -> Result<Option<(String, String)>> {
        let asked = request(PING, self.link.api_token(), |data| options(data, self.model.as_deref(), &[]));
        let reply = self.link.ask(PING, &asked).map_err(with_hint)?;
        let value = read(&reply).ok();
        let text = |key: &str| Some(value.as_ref()?.get(key)?.text()?.to_owned());
        Ok(text("precision").zip(text("precision_name")))
    }

    /// Actions for an observation.
    ///
    /// # Errors
    /// The server cannot be reached, refuses, or answers with something else than the modalities' actions.
    pub fn ask(&mut self, observation: &Observation, asking: &Asking) -> Result<Given> {
        let form = self.form().unwrap_or(RequestForm::ALL[0]);
        let request = self.written(form, observation, asking)?;
        self.ask_written(observation, asking, form, &request)
    }

    /// [`Remote::ask`] with the request written; it is written in other ways until the server takes one.
    fn ask_written(
        &mut self,
        observation: &Observation,
        asking: &Asking,
        form: RequestForm,
        request: &[u8],
    ) -> Result<Given> {
        let settled = self.form();
        let mut refused: Vec<(RequestForm, String)> = Vec::new();
        let own = [form];
        let others = RequestForm::ALL.into_iter().filter(|other| *other != form);
        for form in own.into_iter().chain(others) {
            let rewritten;
            let request = match form == own[0] {
                true => request,
                false => {
                    rewritten = self.written(form, observation, asking)?;
                    &rewritten[..]
                }
            };
            match self.link.ask(ACT, request) {
                Ok(reply) => {
                    *self.form.lock().unwrap_or_else(PoisonError::into_inner) = Some(form);
                    return self.given(&reply);
                }
                Err(Error::Answered { error, .. }) if settled.is_none() && !of_token(&error) => {
                    refused.push((form, error));
                }
                Err(error) => return Err(with_hint(error)),
            }
        }
        let mut words: Vec<String> = Vec::new();
        for (form, error) in refused {
            if !words.iter().any(|word| word.ends_with(&error)) {
                words.push(format!("to {}: {error}", form.name()));
            }
        }
        Err(Error::Answered { server: self.server.clone(), endpoint: ACT, error: words.join("; ") })
    }

    fn written(
        &self,
        form: RequestForm,
        observation: &Observation,
        asking: &Asking,
    ) -> steadyhand_gr00t::Result<Vec<u8>> {
        let (model, api_token) = (self.model.as_deref(), self.link.api_token());
        written(&self.modalities, model, api_token, form, observation, asking)
    }

    fn form(&self) -> Option<RequestForm> {
        *self.form.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn given(&mut self, reply: &[u8]) -> Result<Given> {
        let server = &self.server;
        let given = replies::actions(reply, &self.modalities).map_err(|flaw| {
            let Flaw { field, what, not_finite } = flaw;
            match not_finite {
                // Another observation may fare better.
                true => steadyhand_gr00t::Error::input(format!("{server}: {field}"), what).into(),
                false => Error::Reply { server: server.clone(), endpoint: ACT, field, what },
            }
        })?;
        let widths: Vec<usize> = given.chunk.groups.iter().map(|(_, actions)| actions.cols).collect();
        if self.widths.is_empty() {
            self.widths = widths;
        } else if let Some(place) = (0..widths.len()).find(|place| widths[*place] != self.widths[*place]) {
            let field = format!("action.{}", given.chunk.groups[place].0);
            let what = format!("expected {} values as before, found {}", self.widths[place], widths[place]);
            return Err(Error::Reply { server: self.server.clone(), endpoint: ACT, field, what });
        }
        Ok(given)
    }
}

/// A request of `get_action`.
fn written(
    modalities: &EmbodimentModalities,
    model: Option<&str>,
    api_token: Option<&str>,
    form: RequestForm,
    observation: &Observation,
    asking: &Asking,
) -> steadyhand_gr00t::Result<Vec<u8>> {
    let mut fits = Ok(());
    let request = request(ACT, api_token, |data: &mut Writer| {
        fits = form.write(data, modalities, model, observation, asking);
    });
    fits.map(|()| request)
}

/// `data` that is nothing but options: which of a server's models is asked, and numbers.
fn options(data: &mut Writer, model: Option<&str>, numbers: &[(&str, u64)]) {
    let count = numbers.len() + usize::from(model.is_some());
    data.map(usize::from(count > 0));
    if count > 0 {
        data.str("options");
        data.map(count);
    }
    if let Some(model) = model {
        data.str("model");
        data.str(model);
    }
    for (key, value) in numbers {
        data.str(key);
        data.uint(*value);
    }
}

/// Whether a server's words are about the token: ours and the official one's begin alike.
fn of_token(error: &str) -> bool {
    error.starts_with("Unauthorized")
}

fn with_hint(error: Error) -> Error {
    match error {
        Error::Answered { server, endpoint, error } if of_token(&error) => {
            let what = format!(
                "{endpoint}: expected the server's api_token, found another or none; it answers: {error}"
            );
            Error::Server { server, what }
        }
        other => other,
    }
}

/// What a server refuses of one observation may do for another; everything else would be the same again.
fn for_an_actor(error: Error) -> steadyhand_gr00t::Error {
    match error {
        Error::Policy(error) => error,
        Error::Answered { server, endpoint, error } => steadyhand_gr00t::Error::input(
            format!("{server}: {endpoint}"),
            format!("the server answers: {error}"),
        ),
        error => steadyhand_gr00t::Error::engine(error),
    }
}

impl Actor for Remote {
    type Ready = Ready;

    fn modalities(&self) -> &EmbodimentModalities {
        &self.modalities
    }

    fn name(&self) -> &str {
        &self.server
    }

    fn begin(
        &mut self,
        episode: usize,
        _: usize,
        noise: &NoiseSource,
    ) -> steadyhand_gr00t::Result<Box<Prepare<Ready>>> {
        let NoiseSource::Seed(seed) = *noise else {
            let what = "expected a seed: a server is told which noise to draw, not the noise itself";
            return Err(steadyhand_gr00t::Error::input(format!("{}: noise", self.server), what));
        };
        let what =
            |_| steadyhand_gr00t::Error::input("episode", format!("expected below 2^32, found {episode}"));
        let episode = u32::try_from(episode).map_err(what)?;
        self.reset(episode).map_err(for_an_actor)?;
        let (modalities, form) = (self.modalities.clone(), Arc::clone(&self.form));
        let (api_token, model) = (self.link.api_token().map(str::to_owned), self.model.clone());
        Ok(Box::new(move |inference, observation| {
            let settled = *form.lock().unwrap_or_else(PoisonError::into_inner);
            let form = settled.unwrap_or(RequestForm::ALL[0]);
            let noise = Noise { seed, episode, inference: inference as u32 };
            let asking = Asking { noise: Some(noise), rtc: None };
            let request =
                written(&modalities, model.as_deref(), api_token.as_deref(), form, observation, &asking)?;
            Ok(Ready { noise, form, request })
        }))
    }

    fn act(&mut self, observation: &Observation, ready: Ready) -> steadyhand_gr00t::Result<Acted> {
        let Ready { noise, form, request } = ready;
        let asking = Asking { noise: Some(noise), rtc: None };
        let given = match self.form() {
            // It was made ready before the server's way was known.
            Some(settled) if settled != form => self.ask(observation, &asking),
            _ => self.ask_written(observation, &asking, form, &request),
        };
        let Given { chunk, noise: drawn, .. } = given.map_err(for_an_actor)?;
        Ok(Acted { chunk, normalized: None, asked_noise: drawn == Some(noise) })
    }
}
