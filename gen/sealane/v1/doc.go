// Package sealanev1 is Sealane's own API as Go, generated from proto/sealane/v1 by make gen: messages, clients and the
// interfaces that package api implements. Nothing but this comment is written by hand.
package sealanev1
