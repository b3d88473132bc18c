/* Drives a server through ZooKeeper's C client and tells on standard output what came of it.
 *
 *     cc -DTHREADED c_session.c -lzookeeper_mt -o c_session && ./c_session HOST:PORT
 *
 * The same lines are expected from every server: what differs by nature (times, session ids, the
 * zxid to start from) is left out or counted from a mark. A line `@restart` asks whoever runs this
 * program to restart the server, and to say so with a line on standard input. */

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zookeeper/zookeeper.h>

enum { DEADLINE_S = 30, SEEN_MAX = 64 };

static const char *address;
static int64_t mark;
static int64_t own_session;

static void give_up(const char *what) {
    printf("gave up: %s\n", what);
    exit(1);
}

/* ---- What watchers saw, to be awaited one by one ---- */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static char seen[SEEN_MAX][256];
static int seen_count, seen_taken;

static void see(const char *text) {
    pthread_mutex_lock(&mutex);
    if (seen_count < SEEN_MAX)
        snprintf(seen[seen_count++], sizeof seen[0], "%s", text);
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
}

static void say_next(const char *what) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += DEADLINE_S;
    pthread_mutex_lock(&mutex);
    while (seen_taken == seen_count)
        if (pthread_cond_timedwait(&changed, &mutex, &until) == ETIMEDOUT)
            give_up(what);
    printf("%s: %s\n", what, seen[seen_taken++]);
    if (seen_taken == seen_count)
        seen_taken = seen_count = 0;
    pthread_mutex_unlock(&mutex);
}

static const char *event_name(int type) {
    if (type == ZOO_CREATED_EVENT) return "created";
    if (type == ZOO_DELETED_EVENT) return "deleted";
    if (type == ZOO_CHANGED_EVENT) return "changed";
    if (type == ZOO_CHILD_EVENT) return "child";
    if (type == ZOO_SESSION_EVENT) return "session";
    if (type == ZOO_NOTWATCHING_EVENT) return "not watching";
    return "unknown event";
}

static const char *state_name(int state) {
    if (state == ZOO_EXPIRED_SESSION_STATE) return "expired";
    if (state == ZOO_AUTH_FAILED_STATE) return "authentication failed";
    if (state == ZOO_CONNECTING_STATE) return "connecting";
    if (state == ZOO_ASSOCIATING_STATE) return "associating";
    if (state == ZOO_CONNECTED_STATE) return "connected";
    if (state == ZOO_NOTCONNECTED_STATE) return "not connected";
    return "unknown state";
}

/* Session events go to every watcher; only the session's own tells about them. */
static void on_event(zhandle_t *handle, int type, int state, const char *path, void *context) {
    char text[256];
    (void)handle;
    if (type == ZOO_SESSION_EVENT)
        return;
    snprintf(text, sizeof text, "%s %s %s for the %s watch", event_name(type), state_name(state),
             path, (const char *)context);
    see(text);
}

static void on_session(zhandle_t *handle, int type, int state, const char *path, void *context) {
    (void)handle, (void)path, (void)context;
    if (type == ZOO_SESSION_EVENT)
        see(state_name(state));
}

/* ---- The transcript ---- */

static void say(const char *what, int code) { printf("%s: %s\n", what, zerror(code)); }

static void say_stat(const char *what, int code, const struct Stat *stat) {
    if (code != ZOK) {
        say(what, code);
        return;
    }
    const char *owner = "another session";
    if (stat->ephemeralOwner == 0) owner = "nobody";
    else if (stat->ephemeralOwner == own_session) owner = "this session";
    printf("%s: czxid %lld mzxid %lld pzxid %lld version %d cversion %d aversion %d owner %s "
           "length %d children %d\n",
           what, (long long)(stat->czxid - mark), (long long)(stat->mzxid - mark),
           (long long)(stat->pzxid - mark), stat->version, stat->cversion, stat->aversion, owner,
           stat->dataLength, stat->numChildren);
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void say_names(const char *what, int code, struct String_vector *names) {
    if (code != ZOK) {
        say(what, code);
        return;
    }
    qsort(names->data, (size_t)names->count, sizeof *names->data, by_name);
    printf("%s:", what);
    for (int i = 0; i < names->count; i++)
        printf(" %s", names->data[i]);
    printf("\n");
    deallocate_String_vector(names);
}

static void say_acl(const char *what, int code, struct ACL_vector *acl) {
    if (code != ZOK) {
        say(what, code);
        return;
    }
    printf("%s:", what);
    for (int i = 0; i < acl->count; i++)
        printf(" %s:%s:%d", acl->data[i].id.scheme, acl->data[i].id.id, acl->data[i].perms);
    printf("\n");
    deallocate_ACL_vector(acl);
}

static void create(zhandle_t *handle, const char *what, const char *path, const char *data, int mode) {
    char name[256] = "";
    struct Stat stat = {0};
    int length = data ? (int)strlen(data) : -1;
    int code = zoo_create2(handle, path, data, length, &ZOO_OPEN_ACL_UNSAFE, mode, name,
                           sizeof name, &stat);
    if (code == ZOK)
        printf("%s\n", name);
    say_stat(what, code, &stat);
}

static void get(zhandle_t *handle, const char *what, const char *path) {
    char data[256];
    int length = sizeof data;
    struct Stat stat = {0};
    int code = zoo_get(handle, path, 0, data, &length, &stat);
    if (code == ZOK && length < 0)
        printf("null\n");
    else if (code == ZOK)
        printf("\"%.*s\"\n", length, data);
    say_stat(what, code, &stat);
}

static zhandle_t *connect_as(const clientid_t *id, int timeout) {
    zhandle_t *handle = zookeeper_init(address, on_session, timeout, id, NULL, 0);
    if (!handle)
        give_up("zookeeper_init");
    return handle;
}

/* ---- The sections ---- */

static void creating(zhandle_t *zh) {
    char name[256];
    struct Stat stat = {0};
    printf("== create\n");
    create(zh, "persistent", "/c", "data", ZOO_PERSISTENT);
    create(zh, "null data", "/c/null", NULL, ZOO_PERSISTENT);
    create(zh, "empty data", "/c/empty", "", ZOO_PERSISTENT);
    create(zh, "ephemeral", "/c/e", "x", ZOO_EPHEMERAL);
    create(zh, "sequential", "/c/s-", "x", ZOO_PERSISTENT_SEQUENTIAL);
    create(zh, "ephemeral sequential", "/c/es-", "x", ZOO_EPHEMERAL_SEQUENTIAL);
    create(zh, "container", "/c/box", "x", ZOO_CONTAINER);
    say("no time to live", zoo_create(zh, "/c/t", "x", 1, &ZOO_OPEN_ACL_UNSAFE,
                                      ZOO_PERSISTENT_WITH_TTL, name, sizeof name));
    int code = zoo_create2_ttl(zh, "/c/ttl", "x", 1, &ZOO_OPEN_ACL_UNSAFE, ZOO_PERSISTENT_WITH_TTL,
                               60000, name, sizeof name, &stat);
    say_stat("time to live", code, &stat);
    code = zoo_create_ttl(zh, "/c/ttl-", "x", 1, &ZOO_OPEN_ACL_UNSAFE,
                          ZOO_PERSISTENT_SEQUENTIAL_WITH_TTL, 60000, name, sizeof name);
    printf("sequential with time to live: %s %s\n", zerror(code), name);
    create(zh, "again", "/c", "data", ZOO_PERSISTENT);
    create(zh, "no parent", "/no/parent", "x", ZOO_PERSISTENT);
    create(zh, "under an ephemeral", "/c/e/x", "x", ZOO_PERSISTENT);
    create(zh, "no such path", "c", "x", ZOO_PERSISTENT);
    struct ACL_vector nobody = {0, NULL};
    say("no acl", zoo_create(zh, "/c/n", "x", 1, &nobody, ZOO_PERSISTENT, name, sizeof name));
    get(zh, "null", "/c/null");
    get(zh, "empty", "/c/empty");
}

static void reading_and_writing(zhandle_t *zh) {
    struct Stat stat = {0};
    struct String_vector names = {0, NULL};
    printf("== get, set, exists, delete, children\n");
    get(zh, "get", "/c");
    say_stat("set", zoo_set2(zh, "/c", "new", 3, -1, &stat), &stat);
    say_stat("set, version", zoo_set2(zh, "/c", NULL, -1, 1, &stat), &stat);
    say("set, wrong version", zoo_set(zh, "/c", "x", 1, 1));
    say("set, nothing there", zoo_set(zh, "/none", "x", 1, -1));
    get(zh, "get, null by now", "/c");
    get(zh, "get, nothing there", "/none");
    say_stat("exists", zoo_exists(zh, "/c/e", 0, &stat), &stat);
    say("exists not", zoo_exists(zh, "/none", 0, &stat));
    say_names("children", zoo_get_children(zh, "/c", 0, &names), &names);
    int code = zoo_get_children2(zh, "/c", 0, &names, &stat);
    say_names("children and", code, &names);
    say_stat("their parent", code, &stat);
    say("delete, children", zoo_delete(zh, "/c", -1));
    say("delete, wrong version", zoo_delete(zh, "/c/null", 3));
    say("delete", zoo_delete(zh, "/c/null", 0));
    say("delete, nothing there", zoo_delete(zh, "/c/null", 0));
    char config[256];
    int length = sizeof config;
    say_stat("config", zoo_getconfig(zh, 0, config, &length, &stat), &stat);
    length = sizeof config;
    say("reconfig", zoo_reconfig(zh, "server.9=h:1:2;3", NULL, NULL, -1, config, &length, &stat));
}

static void on_sync(int code, const char *path, const void *context) {
    char text[256];
    (void)context;
    snprintf(text, sizeof text, "%s %s", zerror(code), path ? path : "");
    see(text);
}

static void on_count(int code, const struct Stat *stat, const void *context) {
    char text[256];
    int expected = (int)(intptr_t)context;
    if (code == ZOK && stat->version == expected && expected % 100 != 0)
        return;
    snprintf(text, sizeof text, "%s version %d", zerror(code), code == ZOK ? stat->version : -1);
    see(text);
}

static void pipelined(zhandle_t *zh) {
    printf("== many at once\n");
    create(zh, "counter", "/pipe", "", ZOO_PERSISTENT);
    for (intptr_t n = 1; n <= 300; n++)
        if (zoo_aset(zh, "/pipe", "x", 1, (int)n - 1, on_count, (void *)n) != ZOK)
            give_up("zoo_aset");
    say_next("a hundred");
    say_next("two hundred");
    say_next("three hundred");
    zoo_async(zh, "/pipe", on_sync, NULL);
    say_next("sync");
}

static void watches(zhandle_t *zh, zhandle_t *other) {
    struct Stat stat;
    struct String_vector names;
    char data[16];
    int length = sizeof data;
    printf("== watches\n");
    say("exists", zoo_wexists(zh, "/w", on_event, "exists", &stat));
    zoo_create(other, "/w", "1", 1, &ZOO_OPEN_ACL_UNSAFE, ZOO_PERSISTENT, NULL, 0);
    say_next("create");
    say("get", zoo_wget(zh, "/w", on_event, "data", data, &length, &stat));
    zoo_set(other, "/w", "2", 1, -1);
    say_next("set");
    zoo_set(other, "/w", "not seen", 8, -1);
    if (zoo_wget_children(zh, "/w", on_event, "child", &names) == ZOK)
        deallocate_String_vector(&names);
    zoo_create(other, "/w/x", "", 0, &ZOO_OPEN_ACL_UNSAFE, ZOO_PERSISTENT, NULL, 0);
    say_next("child");
    zoo_wexists(zh, "/w/x", on_event, "exists", &stat);
    zoo_delete(other, "/w/x", -1);
    say_next("delete");
    zoo_wexists(zh, "/w", on_event, "own", &stat);
    zoo_set(zh, "/w", "own", 3, -1);
    say_next("own change");
    zoo_wexists(zh, "/w", on_event, "removed", &stat);
    say("remove", zoo_remove_watches(zh, "/w", ZWATCHTYPE_DATA, on_event, "removed", 0));
    say("remove again", zoo_remove_watches(zh, "/w", ZWATCHTYPE_DATA, on_event, "removed", 0));
    zoo_set(other, "/w", "unseen", 6, -1);
}

static void multi(zhandle_t *zh) {
    zoo_op_t ops[6];
    zoo_op_result_t results[6];
    char name[64] = "", sequential[64] = "";
    struct Stat stat = {0};
    printf("== multi\n");
    zoo_create_op_init(&ops[0], "/m", "1", 1, &ZOO_OPEN_ACL_UNSAFE, ZOO_PERSISTENT, name, sizeof name);
    zoo_create_op_init(&ops[1], "/m/s-", "2", 1, &ZOO_OPEN_ACL_UNSAFE, ZOO_EPHEMERAL_SEQUENTIAL,
                       sequential, sizeof sequential);
    zoo_set_op_init(&ops[2], "/m", "3", 1, 0, &stat);
    zoo_check_op_init(&ops[3], "/m", 1);
    zoo_create_op_init(&ops[4], "/m/gone", "", 0, &ZOO_OPEN_ACL_UNSAFE, ZOO_PERSISTENT, NULL, 0);
    zoo_delete_op_init(&ops[5], "/m/gone", 0);
    say("all", zoo_multi(zh, 6, ops, results));
    for (int i = 0; i < 6; i++)
        say("  one", results[i].err);
    printf("names: %s %s\n", name, sequential);
    say_stat("set", ZOK, &stat);
    say_stat("parent", zoo_exists(zh, "/m", 0, &stat), &stat);
    zoo_delete_op_init(&ops[0], sequential, -1);
    zoo_check_op_init(&ops[1], "/m", 7);
    zoo_set_op_init(&ops[2], "/m", "4", 1, -1, &stat);
    say("the second fails", zoo_multi(zh, 3, ops, results));
    for (int i = 0; i < 3; i++)
        say("  one", results[i].err);
    say_stat("nothing happened", zoo_exists(zh, sequential, 0, &stat), &stat);
    say_stat("nothing happened", zoo_exists(zh, "/m", 0, &stat), &stat);
}

static void on_auth(int code, const void *context) {
    (void)context;
    see(zerror(code));
}

static void access_control(zhandle_t *zh, zhandle_t *other) {
    struct ACL_vector acl;
    struct Stat stat = {0};
    printf("== acl and auth\n");
    char name[64];
    say("auth before it is there", zoo_create(zh, "/a", "", 0, &ZOO_CREATOR_ALL_ACL, ZOO_PERSISTENT,
                                              name, sizeof name));
    zoo_add_auth(zh, "digest", "ann:secret", 10, on_auth, NULL);
    say_next("auth");
    say("create", zoo_create(zh, "/a", "", 0, &ZOO_CREATOR_ALL_ACL, ZOO_PERSISTENT, name, sizeof name));
    say_acl("acl", zoo_get_acl(zh, "/a", &acl, &stat), &acl);
    get(other, "another reads", "/a");
    say("another sets", zoo_set(other, "/a", "x", 1, -1));
    say("another creates", zoo_create(other, "/a/x", "", 0, &ZOO_OPEN_ACL_UNSAFE, ZOO_PERSISTENT,
                                      name, sizeof name));
    say("another sets the acl", zoo_set_acl(other, "/a", -1, &ZOO_OPEN_ACL_UNSAFE));
    say("set acl", zoo_set_acl(zh, "/a", 0, &ZOO_READ_ACL_UNSAFE));
    say("wrong version", zoo_set_acl(zh, "/a", 0, &ZOO_OPEN_ACL_UNSAFE));
    get(other, "another reads", "/a");
    say("not even its owner", zoo_set(zh, "/a", "x", 1, -1));
    say("hers", zoo_create(zh, "/hers", "secret", 6, &ZOO_CREATOR_ALL_ACL, ZOO_PERSISTENT, name,
                           sizeof name));
    zhandle_t *third = connect_as(NULL, 10000);
    say_next("third session");
    zoo_add_auth(third, "nobody", "knows", 5, on_auth, NULL);
    say_next("auth of no scheme");
    say_next("and its session");
    zookeeper_close(third);
}

static void taking_over(zhandle_t *watching) {
    struct Stat stat;
    printf("== sessions\n");
    zhandle_t *first = connect_as(NULL, 10000);
    say_next("first");
    say("held", zoo_create(first, "/held", "", 0, &ZOO_OPEN_ACL_UNSAFE, ZOO_EPHEMERAL, NULL, 0));
    clientid_t id = *zoo_client_id(first);
    clientid_t wrong = id;
    memset(wrong.passwd, 'x', sizeof wrong.passwd);
    zoo_wexists(watching, "/held", on_event, "holder", &stat);
    say("closed", zookeeper_close(first));
    say_next("its ephemeral");
    say("its ephemeral", zoo_exists(watching, "/held", 0, &stat));
    zhandle_t *late = connect_as(&id, 10000);
    say_next("too late");
    zookeeper_close(late);
    const clientid_t *mine = zoo_client_id(watching);
    printf("a session of its own: %d\n", mine->client_id != id.client_id);
}

static void restart(zhandle_t *zh) {
    struct Stat stat;
    printf("== a restart of the server\n");
    clientid_t id = *zoo_client_id(zh);
    create(zh, "ephemeral", "/r", "kept", ZOO_EPHEMERAL);
    zoo_wexists(zh, "/r", on_event, "exists", &stat);
    zoo_wexists(zh, "/r/none", on_event, "creation", &stat);
    printf("@restart\n");
    fflush(stdout);
    if (getchar() == EOF)
        give_up("nobody restarted the server");
    say_next("then");
    /* It may try in vain before the server is back, and then says the same again. */
    while (zoo_state(zh) != ZOO_CONNECTED_STATE) {
        pthread_mutex_lock(&mutex);
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += DEADLINE_S;
        int late = pthread_cond_timedwait(&changed, &mutex, &until);
        pthread_mutex_unlock(&mutex);
        if (late == ETIMEDOUT)
            give_up("the server did not come back");
    }
    printf("the same session: %d\n", zoo_client_id(zh)->client_id == id.client_id);
    get(zh, "its ephemeral", "/r");
    get(zh, "authenticated again", "/hers");
    zoo_set(zh, "/r", "seen", 4, -1);
    pthread_mutex_lock(&mutex);
    while (seen_taken < seen_count && !strchr(seen[seen_taken], '/'))
        seen_taken++;
    pthread_mutex_unlock(&mutex);
    say_next("watched again");
}

int main(int argc, char **argv) {
    if (argc != 2)
        give_up("usage: c_session HOST:PORT");
    address = argv[1];
    setvbuf(stdout, NULL, _IOLBF, 0);
    zoo_set_debug_level(ZOO_LOG_LEVEL_ERROR);

    zhandle_t *zh = connect_as(NULL, 20000);
    say_next("session");
    zhandle_t *other = zookeeper_init(address, NULL, 20000, NULL, NULL, 0);
    struct Stat stat;
    if (zoo_set2(other, "/", "", 0, -1, &stat) != ZOK)
        give_up("the mark");
    mark = stat.mzxid;
    own_session = zoo_client_id(zh)->client_id;

    creating(zh);
    reading_and_writing(zh);
    pipelined(zh);
    watches(zh, other);
    multi(zh);
    access_control(zh, other);
    taking_over(other);
    zookeeper_close(other);
    restart(zh);
    printf("== closing\n");
    say("close", zookeeper_close(zh));
    return 0;
}
