package sidecar

import "time"

func init() { probePause = 100 * time.Millisecond }
