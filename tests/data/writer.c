/*
 * A module that writes where modules can: in commands of its own, and when a key is written by
 * anybody, our transactions included. What it declares of the server's interface is what it uses.
 *
 * Keys that make it write, each time that they are written:
 *   tandem:from:<site>   INCR wrote:mark, when loaded with an argument; at one site only, for each
 *                        transaction of the sidecar makes a write for the other one
 *   call:<name>          INCR wrote:call      by a call that replicates itself
 *   replicate:<name>     INCR wrote:replicate by a call that does not, and an explicit replication
 */

#include <stddef.h>
#include <string.h>

typedef struct Ctx Ctx;
typedef struct String String;
typedef struct Reply Reply;
typedef int (*Command)(Ctx *, String **, int);
typedef int (*Notified)(Ctx *, int, const char *, String *);

#define OK 0
#define ERROR 1
#define API_VERSION 1
/* Events on strings and on lists. */
#define STRING_EVENTS (1 << 3)
#define LIST_EVENTS (1 << 4)

static void (*set_attributes)(Ctx *, const char *, int, int);
static int (*create_command)(Ctx *, const char *, Command, const char *, int, int, int);
static int (*subscribe)(Ctx *, int, Notified);
static Reply *(*call)(Ctx *, const char *, const char *, ...);
static void (*free_reply)(Reply *);
static int (*replicate)(Ctx *, const char *, const char *, ...);
static int (*replicate_verbatim)(Ctx *);
static int (*reply_with_ok)(Ctx *, const char *);
static const char *(*bytes_of)(const String *, size_t *);

/* Not again for what it writes itself. */
static int writing = 0;
static int minds_marks = 0;

static void increment(Ctx *ctx, const char *form, const char *key) {
    Reply *reply = call(ctx, "INCR", form, key);
    if (reply) free_reply(reply);
}

static int begins_with(const char *key, size_t length, const char *prefix) {
    size_t wanted = strlen(prefix);
    return length > wanted && memcmp(key, prefix, wanted) == 0;
}

static int on_write(Ctx *ctx, int kind, const char *event, String *name) {
    size_t length;
    const char *key = bytes_of(name, &length);
    (void)kind;
    (void)event;
    if (writing) return OK;
    writing = 1;
    if (minds_marks && begins_with(key, length, "tandem:from:")) {
        increment(ctx, "!c", "wrote:mark");
    } else if (begins_with(key, length, "call:")) {
        increment(ctx, "!c", "wrote:call");
    } else if (begins_with(key, length, "replicate:")) {
        increment(ctx, "c", "wrote:replicate");
        replicate(ctx, "INCRBY", "cc", "wrote:replicate", "1");
    }
    writing = 0;
    return OK;
}

/* writer.call <key>: replicates the call. */
static int command_call(Ctx *ctx, String **args, int count) {
    if (count != 2) return ERROR;
    increment(ctx, "!c", bytes_of(args[1], NULL));
    increment(ctx, "!c", bytes_of(args[1], NULL));
    return reply_with_ok(ctx, "OK");
}

/* writer.replicate <key>: replicates something that says the same. */
static int command_replicate(Ctx *ctx, String **args, int count) {
    if (count != 2) return ERROR;
    increment(ctx, "c", bytes_of(args[1], NULL));
    replicate(ctx, "INCRBY", "sc", args[1], "1");
    return reply_with_ok(ctx, "OK");
}

/* writer.verbatim <key>: replicates itself. */
static int command_verbatim(Ctx *ctx, String **args, int count) {
    if (count != 2) return ERROR;
    increment(ctx, "c", bytes_of(args[1], NULL));
    replicate_verbatim(ctx);
    return reply_with_ok(ctx, "OK");
}

int RedisModule_OnLoad(Ctx *ctx, String **args, int count) {
    /* The first field of the context leads to everything else. */
    int (*find)(const char *, void *) = *(int (**)(const char *, void *))ctx;
    (void)args;
    minds_marks = count > 0;
    if (find("RedisModule_SetModuleAttribs", &set_attributes) != OK ||
        find("RedisModule_CreateCommand", &create_command) != OK ||
        find("RedisModule_SubscribeToKeyspaceEvents", &subscribe) != OK ||
        find("RedisModule_Call", &call) != OK ||
        find("RedisModule_FreeCallReply", &free_reply) != OK ||
        find("RedisModule_Replicate", &replicate) != OK ||
        find("RedisModule_ReplicateVerbatim", &replicate_verbatim) != OK ||
        find("RedisModule_ReplyWithSimpleString", &reply_with_ok) != OK ||
        find("RedisModule_StringPtrLen", &bytes_of) != OK)
        return ERROR;
    set_attributes(ctx, "writer", 1, API_VERSION);
    if (create_command(ctx, "writer.call", command_call, "write", 1, 1, 1) != OK ||
        create_command(ctx, "writer.replicate", command_replicate, "write", 1, 1, 1) != OK ||
        create_command(ctx, "writer.verbatim", command_verbatim, "write", 1, 1, 1) != OK)
        return ERROR;
    return subscribe(ctx, STRING_EVENTS | LIST_EVENTS, on_write);
}
