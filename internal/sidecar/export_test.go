package sidecar

import "time"

func init() { provePause = 100 * time.Millisecond }
