//! The client protocol: one schema (`proto/holdfast/v1/chat.proto`), two formats.
