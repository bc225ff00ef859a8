package instance

import (
	"fmt"
	"testing"
)

// Writes are refused before the system ends the engine, whatever maxmemory is.
func TestSystemMemoryIsBelowTheBound(t *testing.T) {
	t.Parallel()
	for _, size := range []int32{1, 5, 10, 300} {
		for _, part := range []float64{1, 0.5, 0.2} {
			s := Spec{MemorySizeGB: size, RedisVersion: "REDIS_7_0", RedisConfigs: map[string]string{"maxmemory-gb": fmt.Sprint(float64(size) * part)}}
			if have, bound := s.systemMemory(), s.memoryLimit(); have+gib > bound || have < int64(size)*gib*5/4 {
				t.Errorf("%d GB, maxmemory-gb %v: system memory %d, bound %d; want at least 1.25 times the size, and 1 GiB less than the bound",
					size, s.RedisConfigs["maxmemory-gb"], have, bound)
			}
		}
	}
}
