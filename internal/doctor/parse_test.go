package doctor_test

import (
	"encoding/pem"
	"testing"

	"github.com/sealane/sealane/internal/doctor"
	"github.com/sealane/sealane/internal/resp"
)

// FuzzEngineTime: any reply of a server is a time that a clock may show, or none. (That any bytes are a reply or none is resp.Client's to
// prove.)
func FuzzEngineTime(f *testing.F) {
	f.Add([]byte("*2\r\n$10\r\n1796126400\r\n$1\r\n0\r\n"))
	f.Add([]byte("-NOAUTH Authentication required.\r\n"))
	f.Add([]byte("*2\r\n$-1\r\n:99999999999999999\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, _, err := resp.ParseReply(b, resp.Limits{MaxElements: 64, MaxDepth: 4, MaxBulk: 64 << 10})
		if err != nil {
			return
		}
		if at, ok := doctor.EngineTimeForTest(v); ok && (at.Unix() < 0 || at.Unix() > 1<<40) {
			t.Errorf("%q is %v", b, at)
		}
	})
}

// FuzzReadCAs: a bundle is read as a whole or refused with a reason.
func FuzzReadCAs(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"))
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: []byte{1}}))
	f.Add([]byte("garbage"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		n, kind := doctor.ReadCAsForTest(b)
		if (n > 0) == (kind != "") {
			t.Errorf("%q: %d CAs, %v", b, n, kind)
		}
	})
}
