"""`fastbert export` as a script."""

from jobs.options import command

main = command("export")

if __name__ == "__main__":
    main()
