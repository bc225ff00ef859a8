package process

var ParseStartTime = parseStartTime
