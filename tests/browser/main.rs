//! The page in a real headless Chromium, on real servers: what a person sees and does.

#[path = "../system/actions.rs"]
#[expect(dead_code, reason = "these tests need a part of what is shared with the others")]
mod actions;
#[path = "../system/follower.rs"]
#[expect(dead_code, reason = "these tests need a part of what is shared with the others")]
mod follower;
#[path = "../system/listener.rs"]
#[expect(dead_code, reason = "these tests need a part of what is shared with the others")]
mod listener;
#[path = "../system/message.rs"]
#[expect(dead_code, reason = "these tests need a part of what is shared with the others")]
mod message;
#[path = "../system/world/mod.rs"]
#[expect(dead_code, reason = "these tests need a part of what is shared with the others")]
mod world;

mod chromium;

mod live;
mod screens;
mod story;
mod texts;
