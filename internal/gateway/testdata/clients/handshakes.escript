#!/usr/bin/env escript
%% Reads "host port name file" lines; for each it says whether PING is answered by a server that the file's CAs vouch for.

main(_) ->
    {ok, _} = application:ensure_all_started(ssl),
    logger:set_primary_config(level, none),
    trials(io:get_line("")).

trials(eof) -> ok;
trials(Line) ->
    [Host, Port, _Name, File] = string:lexemes(string:trim(Line), " "),
    io:format("~s~n", [trial(Host, list_to_integer(Port), File)]),
    trials(io:get_line("")).

trial(Host, Port, File) ->
    Options = [{verify, verify_peer}, {cacertfile, File}, {active, false}, {mode, binary}],
    %% As a tuple: a string is compared with the DNS names only.
    {ok, Address} = inet:parse_address(Host),
    case ssl:connect(Address, Port, Options, 30000) of
        {ok, Socket} ->
            ok = ssl:send(Socket, "PING\r\n"),
            Answer = ssl:recv(Socket, 7, 30000),
            ssl:close(Socket),
            case Answer of
                {ok, <<"+PONG\r\n">>} -> "ok";
                Other -> io_lib:format("no ~0p", [Other])
            end;
        {error, Reason} -> io_lib:format("no ~0p", [Reason])
    end.
