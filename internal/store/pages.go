package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math"
)

// This file checks a bbolt file before bbolt sees it. bbolt trusts its pages. One flipped bit makes it panic, or follow pages in a
// circle until the stack is full, or go back by one transaction without a word, because it takes the other meta page where one has
// a wrong checksum. bbolt's own check (Tx.Check) trusts its pages too.
//
// All numbers are the machine's own, and Sealane runs on little-endian machines only. A page:
//
//	id u64 | flags u16 | count u16 | overflow u32 | content; it goes on over as many pages as overflow says
//
// The content of a meta page (pages 0 and 1, of which the one with the higher transaction counts):
//
//	magic u32 | version u32 | page size u32 | flags u32 | root page u64 | sequence u64 | freelist page u64 |
//	pages in use u64 | transaction u64 | FNV-64a of all before u64
//
// A branch page has an element per child, a leaf page one per key; positions count from the element's own begin:
//
//	branch: position u32 | key size u32 | child page u64, then the keys
//	leaf:   flags u32 | position u32 | key size u32 | value size u32, then keys and values
//
// A leaf's value with the bucket flag is a root page u64 and a sequence u64; root page 0 means that a leaf page
// follows in the value itself. A freelist page holds ids as u64; with a count of 65535 the first u64 is the count.

const (
	pageHeader = 16
	element    = 16
	metaSize   = 64

	branchPage   = 0x01
	leafPage     = 0x02
	metaPage     = 0x04
	freelistPage = 0x10

	bucketValue = 0x01

	metaMagic   = 0xED0CDAED
	metaVersion = 2
	maxDepth    = 64
)

var le = binary.LittleEndian

// meta is a meta page that has the right checksum.
type meta struct{ root, freelist, pages, tx uint64 }

// checker walks all pages of a file.
type checker struct {
	data     []byte
	pageSize uint64
	pages    uint64
	used     []bool
}

// checkPages returns an error that is ErrDamaged, unless every page is as bbolt expects it.
func checkPages(data []byte) error {
	if err := checkFile(data); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return nil
}

func checkFile(data []byte) error {
	if len(data) < smallest {
		return fmt.Errorf("%d bytes are too few", len(data))
	}
	size := uint64(le.Uint32(data[pageHeader+8:]))
	if size < 512 || size > 64<<10 || size&(size-1) != 0 || 2*size+pageHeader+metaSize > uint64(len(data)) {
		return fmt.Errorf("page 0: a page size of %d", size)
	}
	var metas [2]meta
	for i := range metas {
		var err error
		if metas[i], err = readMeta(data[uint64(i)*size:], i, size); err != nil {
			return err
		}
	}
	m := metas[0]
	if metas[1].tx > m.tx {
		m = metas[1]
	}
	c := &checker{data: data, pageSize: size, pages: m.pages}
	if c.pages < 4 || c.pages > uint64(len(data))/size {
		return fmt.Errorf("%d pages in a file of %d bytes", c.pages, len(data))
	}
	c.used = make([]bool, c.pages)
	c.used[0], c.used[1] = true, true
	if err := c.walk(m.root, 0, nil, nil); err != nil {
		return err
	}
	return c.freelist(m.freelist)
}

func readMeta(page []byte, id int, pageSize uint64) (meta, error) {
	b := page[pageHeader : pageHeader+metaSize]
	sum := fnv.New64a()
	sum.Write(b[:metaSize-8])
	switch {
	case le.Uint64(page) != uint64(id) || le.Uint16(page[8:]) != metaPage:
		return meta{}, fmt.Errorf("page %d: not a meta page", id)
	case le.Uint32(b) != metaMagic || le.Uint32(b[4:]) != metaVersion || uint64(le.Uint32(b[8:])) != pageSize:
		return meta{}, fmt.Errorf("page %d: not bbolt's", id)
	case le.Uint64(b[metaSize-8:]) != sum.Sum64():
		return meta{}, fmt.Errorf("page %d: wrong checksum", id)
	}
	return meta{root: le.Uint64(b[16:]), freelist: le.Uint64(b[32:]), pages: le.Uint64(b[40:]), tx: le.Uint64(b[48:])}, nil
}

// claim returns a page with its overflow, which nothing else may refer to.
func (c *checker) claim(id uint64) ([]byte, error) {
	if id < 2 || id >= c.pages {
		return nil, fmt.Errorf("page %d: there is none", id)
	}
	at := id * c.pageSize
	over := uint64(le.Uint32(c.data[at+12:]))
	if le.Uint64(c.data[at:]) != id || over >= c.pages-id {
		return nil, fmt.Errorf("page %d: its header is wrong", id)
	}
	for i := id; i <= id+over; i++ {
		if c.used[i] {
			return nil, fmt.Errorf("page %d: used twice", i)
		}
		c.used[i] = true
	}
	return c.data[at : at+(over+1)*c.pageSize], nil
}

// walk checks a tree whose keys are to be at least low and below high; nil is no bound.
func (c *checker) walk(id uint64, depth int, low, high []byte) error {
	page, err := c.claim(id)
	if err != nil {
		return err
	}
	if depth > maxDepth {
		return fmt.Errorf("page %d: the tree is too deep", id)
	}
	switch le.Uint16(page[8:]) {
	case branchPage:
		err = c.branch(page, depth, low, high)
	case leafPage:
		err = c.leaf(page, depth, low, high, true)
	default:
		err = fmt.Errorf("neither branch nor leaf")
	}
	if err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

func (c *checker) branch(page []byte, depth int, low, high []byte) error {
	count := int(le.Uint16(page[10:]))
	if count == 0 {
		return fmt.Errorf("a branch without children")
	}
	keys := make([][]byte, count)
	for i := range keys {
		e, err := elementAt(page, i)
		if err != nil {
			return err
		}
		if keys[i], err = part(e, count-i, uint64(le.Uint32(e)), uint64(le.Uint32(e[4:]))); err != nil {
			return err
		}
	}
	if err := inOrder(keys, low, high); err != nil {
		return err
	}
	for i := range keys {
		e, _ := elementAt(page, i)
		next := high
		if i+1 < count {
			next = keys[i+1]
		}
		if err := c.walk(le.Uint64(e[8:]), depth+1, keys[i], next); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) leaf(page []byte, depth int, low, high []byte, buckets bool) error {
	keys := make([][]byte, le.Uint16(page[10:]))
	for i := range keys {
		e, err := elementAt(page, i)
		if err != nil {
			return err
		}
		at, keySize, valueSize := uint64(le.Uint32(e[4:])), uint64(le.Uint32(e[8:])), uint64(le.Uint32(e[12:]))
		if keys[i], err = part(e, len(keys)-i, at, keySize); err != nil {
			return err
		}
		value, err := part(e, len(keys)-i, at+keySize, valueSize)
		if err != nil {
			return err
		}
		switch flags := le.Uint32(e); {
		case flags == 0:
		case flags != bucketValue || !buckets:
			return fmt.Errorf("element %d: flags %#x", i, flags)
		default:
			if err := c.bucket(value, depth); err != nil {
				return fmt.Errorf("bucket %.32q: %w", keys[i], err)
			}
		}
	}
	return inOrder(keys, low, high)
}

// bucket checks the value under a bucket's name.
func (c *checker) bucket(value []byte, depth int) error {
	if len(value) < 16 {
		return fmt.Errorf("%d bytes are too few", len(value))
	}
	if root := le.Uint64(value); root != 0 {
		return c.walk(root, depth+1, nil, nil)
	}
	page := value[16:]
	if len(page) < pageHeader || le.Uint16(page[8:]) != leafPage {
		return fmt.Errorf("not a leaf")
	}
	return c.leaf(page, depth, nil, nil, false)
}

// elementAt returns what begins with element i of a page.
func elementAt(page []byte, i int) ([]byte, error) {
	at := pageHeader + i*element
	if at+element > len(page) {
		return nil, fmt.Errorf("element %d: behind the end of its page", i)
	}
	return page[at:], nil
}

// part returns a key or value of the element at the beginning of e. left is how many elements there are from this one on: keys and
// values stand behind the last.
func part(e []byte, left int, at, size uint64) ([]byte, error) {
	if at < uint64(left)*element || at > math.MaxUint32 || at+size > uint64(len(e)) {
		return nil, fmt.Errorf("%d bytes at %d: outside of its page", size, at)
	}
	return e[at : at+size], nil
}

func inOrder(keys [][]byte, low, high []byte) error {
	for i, k := range keys {
		if i > 0 && bytes.Compare(keys[i-1], k) >= 0 || low != nil && bytes.Compare(k, low) < 0 || high != nil && bytes.Compare(k, high) >= 0 {
			return fmt.Errorf("key %.32q: out of order", k)
		}
	}
	return nil
}

// freelist checks that no page is both used and free, or free twice. A page that is neither is lost, which does no harm.
func (c *checker) freelist(id uint64) error {
	page, err := c.claim(id)
	if err != nil {
		return fmt.Errorf("freelist: %w", err)
	}
	if le.Uint16(page[8:]) != freelistPage {
		return fmt.Errorf("page %d: not a freelist", id)
	}
	ids, count := page[pageHeader:], uint64(le.Uint16(page[10:]))
	if count == math.MaxUint16 {
		count, ids = le.Uint64(ids), ids[8:]
	}
	if count > uint64(len(ids))/8 {
		return fmt.Errorf("page %d: %d free pages", id, count)
	}
	for i := range count {
		free := le.Uint64(ids[8*i:])
		if free < 2 || free >= c.pages || c.used[free] {
			return fmt.Errorf("page %d: said to be free", free)
		}
		c.used[free] = true
	}
	return nil
}
