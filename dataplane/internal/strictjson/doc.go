// Package strictjson reads JSON from outside so that it has one meaning.
//
// Two parsers that read one message differently are a hole: what policy judged is then not what the upstream does. So
// what leaves room for a second reading is refused: duplicate keys at any depth (compared after unescaping), control
// characters in keys, invalid UTF-8, lone surrogates, trailing data, and whatever is larger or deeper than the limits.
// A Reader pulls members out of nested objects in the same single pass that checks them, as spans of the bytes that
// came; Decode builds values for policy. No error holds a byte of the input.
package strictjson
