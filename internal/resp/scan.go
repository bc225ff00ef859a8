package resp

import (
	"bytes"
	"errors"
)

// ReplyScanner finds where replies end in a stream that comes in pieces. It keeps none of their bytes, and its state is small
// however long they are. The zero value is at the beginning of a reply.
type ReplyScanner struct {
	kind   Kind  // of the reply under way
	header Kind  // of the value whose number is being read
	left   int   // values to come until the reply ends; 0 between replies
	skip   int   // bytes of a string to come, with its CRLF
	number int   // the length or count, as far as it has been read
	digits uint8 // of number
	minus  bool
	state  scanState
}

type scanState uint8

const (
	atValue  scanState = iota // the next byte is a kind
	inNumber                  // in a length or a count
	inLine                    // in a value of one line
	inBlob                    // in a string
)

// maxDigits keeps a number and what is added to it far from overflow.
const maxDigits = 15

var errScan = errors.New("no RESP")

// Next reads to the end of one reply, or to the end of b. It returns how many bytes it has read, and whether the reply ends there.
// After an error the scanner is of no more use.
func (s *ReplyScanner) Next(b []byte) (n int, done bool, err error) {
	for n < len(b) {
		switch s.state {
		case atValue:
			if err := s.begin(Kind(b[n])); err != nil {
				return n, false, err
			}
			n++
		case inNumber:
			c := b[n]
			n++
			if c != '\n' {
				if !s.digit(c) {
					return n, false, errScan
				}
				continue
			}
			if !s.counted() {
				return n, false, errScan
			}
		case inLine:
			i := bytes.IndexByte(b[n:], '\n')
			if i < 0 {
				return len(b), false, nil
			}
			n += i + 1
			s.state = atValue
			s.left--
		case inBlob:
			k := min(s.skip, len(b)-n)
			n += k
			if s.skip -= k; s.skip > 0 {
				return n, false, nil
			}
			s.state = atValue
			s.left--
		}
		if s.left == 0 {
			return n, true, nil
		}
	}
	return n, false, nil
}

// Kind is the first byte of the reply that is being read, or else of the last one.
func (s *ReplyScanner) Kind() Kind { return s.kind }

// Between says that the scanner is between two replies.
func (s *ReplyScanner) Between() bool { return s.left == 0 }

// Rest is how many bytes of the reply are still to come, at least. all says that no more will come. While no string is read the
// number is not known, and 0.
func (s *ReplyScanner) Rest() (n int, all bool) {
	if s.state != inBlob {
		return 0, false
	}
	return s.skip, s.left == 1
}

func (s *ReplyScanner) begin(k Kind) error {
	if s.left == 0 {
		s.left, s.kind = 1, k
	}
	switch k {
	case Simple, Error, Integer, Null, Boolean, Double, BigNumber:
		s.state = inLine
	case Bulk, Verbatim, BlobError, Array, Set, Push, Map, Attribute:
		s.state, s.header, s.number, s.digits, s.minus = inNumber, k, 0, 0, false
	default:
		return errScan
	}
	return nil
}

func (s *ReplyScanner) digit(c byte) bool {
	switch {
	case c >= '0' && c <= '9' && s.digits < maxDigits:
		if s.number > 0 || s.digits == 0 { // leading zeros are no matter
			s.digits++
		}
		s.number = s.number*10 + int(c-'0')
	case c == '-' && s.digits == 0 && !s.minus:
		s.minus = true
	case c != '\r' || s.digits == 0:
		return false
	}
	return true
}

// counted decides what follows a length or a count that has been read.
func (s *ReplyScanner) counted() bool {
	s.state = atValue
	switch {
	case s.digits == 0:
		return false
	case s.minus:
		s.left-- // null
		return s.number == 1
	}
	switch s.header {
	case Bulk, Verbatim, BlobError:
		s.state, s.skip = inBlob, s.number+2
	case Map:
		s.left += 2*s.number - 1
	case Attribute:
		s.left += 2 * s.number // the value that it belongs to still comes
	default:
		s.left += s.number - 1
	}
	return s.left < 1<<40
}

const (
	// maxInline and maxBulk are the servers' (PROTO_INLINE_MAX_SIZE, proto-max-bulk-len).
	maxInline = 64 << 10
	maxBulk   = 512 << 20
	maxArgs   = 1<<31 - 1

	// nameSize holds every command's name, and every subcommand's.
	nameSize = 24
)

// CommandScanner finds where requests end in a stream that comes in pieces, and the names of their commands. It accepts no more than
// the servers do: where it finds the end of a request, they find it too. The zero value is at the beginning of a request.
type CommandScanner struct {
	state  commandState
	inline bool
	minus  bool
	digits uint8
	number int
	args   int // how many were announced; for a line of text 1 if there is a word on it, else 0
	arg    int // the number of the argument that is being read
	skip   int // bytes of that argument to come, with its CRLF
	size   int // bytes of the request so far
	big    int // the length of its longest argument
	words  [2][nameSize]byte
	long   [2]int
}

type commandState uint8

const (
	atRequest  commandState = iota
	inCount                 // behind "*"
	atArgument              // "$" comes
	inLength                // behind "$"
	inArgument
	inInline
)

// Next reads to the end of one request, or to the end of b. It returns how many bytes it has read, and whether the request ends
// there. An error means that some server would call it a protocol error, at n.
func (s *CommandScanner) Next(b []byte) (n int, done bool, err error) {
	if s.state == atRequest {
		if len(b) == 0 {
			return 0, false, nil
		}
		if n = s.whole(b); n > 0 {
			return n, true, nil
		}
		s.begin(b[0])
		if !s.inline {
			n = 1
		}
	}
	for n < len(b) {
		switch s.state {
		case inCount, inLength:
			ended, ok := s.digit(b[n])
			n++
			switch {
			case !ok:
				return n, false, errScan
			case ended && s.state == atRequest:
				s.size += n
				return n, true, nil
			}
		case atArgument:
			if b[n] != '$' {
				return n, false, errScan
			}
			n++
			s.expect(inLength)
		case inArgument:
			k, ok := s.argument(b[n:])
			n += k
			if !ok {
				return n, false, errScan
			}
			if s.skip > 0 {
				continue // to the end of b
			}
			if s.arg++; s.arg == s.args {
				s.state = atRequest
				s.size += n
				return n, true, nil
			}
			s.state = atArgument
		case inInline:
			return s.line(b)
		}
	}
	s.size += n
	return n, false, nil
}

// whole is a short way for what most requests are: complete in b, with up to nine arguments whose lengths have up to five digits. It
// leaves the same state behind as Next does byte by byte. Of any other request it reads nothing, and returns 0.
func (s *CommandScanner) whole(b []byte) int {
	if len(b) < len("*1\r\n$1\r\n") || b[0] != '*' || b[1] < '1' || b[1] > '9' || b[2] != '\r' || b[3] != '\n' {
		return 0
	}
	args, n, big := int(b[1]-'0'), 4, 0
	var words [2][]byte
	for i := range args {
		length, size := shortLength(b[n:])
		if size == 0 || len(b)-n-size < length+2 {
			return 0
		}
		n += size
		if i < len(words) {
			words[i] = b[n : n+length]
		}
		big = max(big, length)
		if n += length + 2; b[n-2] != '\r' || b[n-1] != '\n' {
			return 0
		}
	}
	*s = CommandScanner{args: args, arg: args, size: n, big: big}
	for i, w := range words {
		for j := range min(len(w), nameSize) {
			s.words[i][j] = lower(w[j])
		}
		s.long[i] = len(w)
	}
	return n
}

// shortLength reads "$", a length of up to five digits, and the line's end. size is how many bytes these are; 0: they are not there.
func shortLength(b []byte) (length, size int) {
	if len(b) < 4 || b[0] != '$' {
		return 0, 0
	}
	for i := 1; i < min(len(b)-1, 7); i++ {
		c := b[i] - '0'
		switch {
		case c <= 9 && i < 6 && (i == 1 || length > 0): // no leading zero
			length = length*10 + int(c)
		case b[i] == '\r' && i > 1 && b[i+1] == '\n':
			return length, i + 2
		default:
			return 0, 0
		}
	}
	return 0, 0
}

func (s *CommandScanner) begin(first byte) {
	*s = CommandScanner{state: inInline, inline: true}
	if first == '*' {
		s.inline = false
		s.expect(inCount)
	}
}

func (s *CommandScanner) expect(state commandState) {
	s.state, s.number, s.digits, s.minus = state, 0, 0, false
}

// digit reads one byte of a count or a length. The servers read these strictly: with no sign but a minus, and no leading zero.
func (s *CommandScanner) digit(c byte) (ended, ok bool) {
	const carriageReturn = 255 // in digits: the line feed comes
	switch {
	case s.digits == carriageReturn:
		return true, c == '\n' && s.numbered()
	case c >= '0' && c <= '9' && s.digits < maxDigits && !(s.digits == 1 && s.number == 0):
		s.number = s.number*10 + int(c-'0')
		s.digits++
	case c == '-' && s.digits == 0 && !s.minus:
		s.minus = true
	case c == '\r' && s.digits > 0 && !(s.minus && s.number == 0):
		s.digits = carriageReturn
	default:
		return false, false
	}
	return false, true
}

func (s *CommandScanner) numbered() bool {
	switch {
	case s.state == inCount && (s.minus || s.number == 0):
		s.args, s.state = 0, atRequest // the servers ignore an empty request
	case s.state == inCount:
		s.args, s.state = s.number, atArgument
		return s.number <= maxArgs
	default:
		s.skip, s.state = s.number+2, inArgument
		s.big = max(s.big, s.number)
		return !s.minus && s.number <= maxBulk
	}
	return true
}

// argument reads an argument and its line's end. Where that is two other bytes, Valkey 9.1 and newer close the connection; the other
// servers ignore what the bytes are.
func (s *CommandScanner) argument(b []byte) (n int, ok bool) {
	k, text := min(s.skip, len(b)), max(s.skip-2, 0)
	if s.arg < 2 && text > 0 {
		s.note(b[:min(k, text)])
	}
	end := b[min(text, k):k]
	ok = string(end) == "\r\n"[2-min(s.skip, 2):][:len(end)]
	s.skip -= k
	return k, ok
}

func (s *CommandScanner) note(b []byte) {
	w := &s.words[s.arg]
	for i := 0; i < len(b) && s.long[s.arg]+i < nameSize; i++ {
		w[s.long[s.arg]+i] = lower(b[i])
	}
	s.long[s.arg] += len(b)
}

func (s *CommandScanner) line(b []byte) (int, bool, error) {
	i := bytes.IndexByte(b, '\n')
	n := i + 1
	if i < 0 {
		n = len(b)
	}
	s.size += n
	// The servers search for the line's end with strchr, which a zero byte stops, so they do not see the request end here.
	if s.size > maxInline || bytes.IndexByte(b[:n], 0) >= 0 {
		return n, false, errScan
	}
	for _, c := range b[:n] {
		if !isSpace(c) {
			s.args = 1
			break
		}
	}
	if i < 0 {
		return n, false, nil
	}
	s.state = atRequest
	return n, true, nil
}

// Inline says that the request is a line of text. Its command is known only from the whole line.
func (s *CommandScanner) Inline() bool { return s.inline }

// Args is how many arguments the request has, the command's name included. For a line of text it is 1 if there is a word on it, else 0.
func (s *CommandScanner) Args() int { return s.args }

// Size is how many bytes of the request have been read.
func (s *CommandScanner) Size() int { return s.size }

// Longest is the length of the longest argument whose length is known.
func (s *CommandScanner) Longest() int { return s.big }

// Named says that the command's name is known, and the argument behind it too, if there is one. It is never so for a line of text.
func (s *CommandScanner) Named() bool {
	return !s.inline && s.args > 0 && s.arg >= min(2, s.args)
}

// Name is the command's name in lower case, or nil if it is longer than that of any command. It is valid until the next request.
func (s *CommandScanner) Name() []byte { return s.word(0) }

// Second is the argument behind the name in lower case, or nil if it is longer than any subcommand.
func (s *CommandScanner) Second() []byte { return s.word(1) }

func (s *CommandScanner) word(i int) []byte {
	if s.long[i] > nameSize {
		return nil
	}
	return s.words[i][:s.long[i]]
}

// Arguments appends the arguments of one complete request that a CommandScanner has found. They share the memory of b. It returns nil
// for a line of text with quotes or escapes, which only the servers interpret.
func Arguments(dst [][]byte, b []byte) [][]byte {
	if len(b) == 0 || b[0] != '*' {
		if bytes.ContainsAny(b, "\"'\\\x00") {
			return nil
		}
		return append(dst, bytes.FieldsFunc(b, func(r rune) bool { return r < 0x80 && isSpace(byte(r)) })...)
	}
	b = b[bytes.IndexByte(b, '\n')+1:]
	for len(b) > 1 && b[0] == '$' {
		end := bytes.IndexByte(b, '\r')
		n := 0
		for _, c := range b[1:max(1, end)] {
			n = n*10 + int(c-'0')
		}
		if end < 0 || n < 0 || end+2+n+2 > len(b) {
			return dst
		}
		dst = append(dst, b[end+2:end+2+n:end+2+n])
		b = b[end+2+n+2:]
	}
	return dst
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// isSpace is C's isspace, by which the servers split lines.
func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }
