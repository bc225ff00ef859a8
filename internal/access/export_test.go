package access

// Times of the clockwork, for tests.
const (
	ForgetAfter = forgetAfter
	UseInterval = useInterval
)
