/* Prints the server's routes, one a line: method, path, operation, names of the query. */
#include "service/routes.h"

#include <stdio.h>

int main(void)
{
    size_t count;
    const kvs_route *routes = kvs_routes(&count);
    for (size_t i = 0; i < count; i++) {
        (void)printf("%s %s %s", routes[i].method, routes[i].path, routes[i].operation);
        for (size_t j = 0; j < KVS_ROUTE_QUERIES_MAX && routes[i].queries[j] != NULL; j++) {
            (void)printf(" %s", routes[i].queries[j]);
        }
        (void)printf("\n");
    }
    return 0;
}
