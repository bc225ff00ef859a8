package statedir

import (
	"encoding/json"
	"errors"
	"os"
	"syscall"

	"github.com/sealane/sealane/internal/durable"
)

// ServerInfo says where a running server listens. After the server's end it says where that was.
type ServerInfo struct {
	PID  int    `json:"pid"`
	HTTP string `json:"http"` // a base URL
	GRPC string `json:"grpc"`
	Ops  string `json:"ops"`

	// MasterKeyFile is the configuration's: `sealane stop` needs it when the server is gone.
	MasterKeyFile string `json:"master_key_file,omitempty"`
}

// WriteServerInfo is for the server, once it listens.
func (d Dir) WriteServerInfo(s ServerInfo) error {
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	raw = append(raw, '\n')
	err = durable.WriteFile(d.serverInfo(), raw, 0o600)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		// A full disk has no room for a new file, but the old one has some.
		return overwrite(d.serverInfo(), raw)
	}
	return err
}

// overwrite puts a file's new content where the old one is. A crash on the way leaves a mixture.
func overwrite(path string, raw []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err == nil {
		err = f.Truncate(int64(len(raw)))
	}
	return errors.Join(err, f.Close())
}

// ReadServerInfo is for the CLI.
func (d Dir) ReadServerInfo() (ServerInfo, error) {
	var s ServerInfo
	raw, err := os.ReadFile(d.serverInfo())
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(raw, &s)
}
